"""The main job: a real model saved by four processes, one of them killed, and restored into other layouts."""
