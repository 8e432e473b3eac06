"""The names of the files of a training, see mmbench.training.files; for readers that need no torch."""

BEST, RESUME, LOG = "best.safetensors", "resume.safetensors", "train.jsonl"
PREVIOUS, CANDIDATE = "previous.safetensors", "candidate.safetensors"
