"""The letters of shapes in a line of text, from lowest to highest."""

BLOCKS, ASCII = "▁▂▃▄▅▆▇█", ".:-=+*#@"
