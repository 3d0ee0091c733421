"""The main job: a model learns the maze, its axis of success is read and steered with; or one is only read."""
