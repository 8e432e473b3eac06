"""Item features: texts and pictures -> one float32 array per (modality, encoder), with presence flags.

store.py     the arrays on disk: the only reader and writer of them
encoders.py  the interface of an encoder, and the registry of their names
text.py      `tfidf-svd`; image.py `colour-gradient`; neither needs a download
sources.py   an item's text or picture, or the reason why there is none
pretrained.py  finding, hashing and loading the weights of networks; transformers_text.py, recformer.py: text networks
network.py   a network over all items: batches, memory, threads; work.py: what a killed run leaves
extract.py   source + encoder -> store, with a coverage report
imported.py  ready-made `.npy/.npz/.pt` arrays -> store
"""
