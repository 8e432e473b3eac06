"""Item features: texts and pictures -> a float32 array per (modality, encoder), with presence flags.

store.py     the arrays on disk, which are read and written only here
encoders.py  the interface of an encoder, and the registry of their names
text.py      `tfidf-svd`; image.py `colour-gradient`; neither needs a download
sources.py   an item's text or picture, or the reason why there is none
pretrained.py  finds, hashes and loads the weights of networks; transformers_text.py, recformer.py: text networks
network.py   runs a network over all items: batches, memory, threads; work.py: what a killed run leaves
extract.py   source + encoder -> store, with a coverage report
vision.py    vision models of `transformers`; resnet.py, efficientnet.py: two convolutional networks
             pixels.py: how a picture becomes their input; picture_network.py: what they share
torchvision_import.py  makes torchvision importable when its compiled operators cannot load
imported.py  ready-made `.npy/.npz/.pt` arrays -> store
"""
