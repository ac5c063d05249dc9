"""Every setting, with its meaning. A field left at None takes what the protocol's source publishes."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> Any:
    """Every key, at its default."""
    config: Any = ConfigDict()
    config.data_dir = ""  # a data set made by data_prep.build; "" builds and uses the synthetic demo data
    config.protocol = "stjax"  # targets, gene panel, filters, folds and scoring: see `stjax/protocols.py`
    config.seed = 0

    # Who is held out. By default the protocol decides by patient; sections may be named instead ("C5" or "C4,C5").
    config.split = "patients"  # or blocks: spatial blocks of every section, for those with one (docs/protocols.md)
    config.fold = 0
    config.test_patients = ""
    config.test_sections = ""
    config.val_sections = ""
    config.blocks = ConfigDict()
    config.blocks.folds = 5
    config.blocks.per_fold = 1  # compact blocks that are tested on; more are more of the tissue, and drop more spots
    config.blocks.buffer_um = 0.0  # spots of different parts are at least so far apart; 0: as far as the model sees

    config.model = ConfigDict()
    config.model.module = "efficientnet"  # a file in stjax/models ...
    config.model.variant = "b0"  # ... and what its build() calls the model
    config.model.aux = True  # AuxNet: a second head that predicts all the other genes
    config.model.dtype = "float32"  # of the computation; parameters, heads and losses stay float32
    config.model.options = ConfigDict()  # further keywords of the module's build(); a config may add its own
    config.model.options.rematerialise = False  # compute inner results anew for the gradient: less memory, more time

    config.features = ""  # of models of features (probes): the folder in the data set's features/ to train on
    config.embed = ConfigDict()  # how to make them (stjax embed) where the data set lacks them; "" does not
    config.embed.encoder = ""
    config.embed.pooling = ""
    config.embed.fields = "1"
    config.embed.source = ""  # of several fields: the folder of the raw images; the demo has its own
    config.standardise_features = "training"  # over all training spots; or section: over the spots of each section
    config.encoder_weights = ""  # and the file of their encoder's weights, with which slides are then predicted
    config.spots_per_item = 0  # of models of sections: so many spots of one are an item; 0: all of them
    config.gene_vectors = ""  # of SGN: an .npz of vectors of genes; "" makes them of their symbols and full names
    config.init_from = ""  # the backbone's starting weights: .safetensors or .pth under torchvision's or timm's names
    config.backbone_learning_rate_scale = 1.0  # of the learning rate; 0 freezes the backbone, statistics included

    config.fit = "gradient"  # or closed_form: the main head is solved as a ridge, the backbone stays as it is
    config.rank = 0  # of closed_form: predictions vary along so many directions, which genes share; 0: no limit
    config.batch_size = placeholder(int)  # global, whatever the number of devices
    config.micro_batch = 0  # so many items at a time, gradients accumulated; 0 takes the batch at once (docs/scale.md)
    config.num_epochs = placeholder(int)
    config.optimizer = placeholder(str)  # sgd, adam or adamw
    config.learning_rate = placeholder(float)
    config.momentum = placeholder(float)  # of sgd
    config.weight_decay = placeholder(float)
    config.schedule = placeholder(str)  # constant, cosine, cosine_5_epochs (as published) or plateau
    config.warmup_steps = placeholder(int)  # the rate rises linearly over so many, at most a quarter of the run's
    config.max_gradient_norm = placeholder(float)  # a longer gradient, over all parameters, is scaled to this; 0: as is
    config.ema_decay = placeholder(float)  # of the averaged weights that are validated, kept and used; 0: no averaging
    config.early_stopping_patience = placeholder(int)  # epochs without a better validation loss; 0 never stops early
    config.aux_weight = placeholder(float)  # lambda of BrST-Net
    config.loss = "mse"  # mse, mse_pcc (PixNet's), additive_nll ...: see `LOSSES` in stjax/losses.py
    config.spot_sizes_um = ""  # of tiles: "2,8,16" trains on spots of these sizes alone; "" on all there are

    config.augment = True  # a random symmetry of the square per patch, on the device
    # Images as other laboratories and scanners would have shown them; 0 leaves a step out. Published ranges, and where
    # they come from, are in stjax/augmentation.py.
    config.augmentation = ConfigDict()
    config.augmentation.stain = 0.0  # H, E and residual each times 1 +- this, plus or minus this; published .05 to .2
    config.augmentation.brightness = 0.0  # times 1 +- this; .35
    config.augmentation.gamma = 0.0  # to the power of 1 +- this; .2
    config.augmentation.blur_px = 0.0  # Gaussian, of a deviation up to this; 2
    config.augmentation.sharpen = 0.0  # unsharp mask, of an amount up to this; .9
    config.augmentation.jpeg = 0  # the lowest quality of JPEG; 30
    config.augmentation.scale = 0.0  # of patches: times 1 +- this; .2
    config.augmentation.rotate = False  # of patches: any angle
    config.num_workers = 0  # decoding processes besides the main one; 0 decodes in threads
    config.eval_batch_size = 64
    config.log_every_steps = 10
    config.save_every_steps = 0  # checkpoints within an epoch, besides the one at its end; 0 makes none
    config.step_timeout_s = 0  # ends a run of which a step takes longer; 0 never does
    config.profile_steps = ""  # "10:15" writes a trace of steps 10 to 14 for TensorBoard

    # What takes the protocol's place, for fields left at None, when the data is the built-in demo: a short run.
    config.demo = ConfigDict()
    config.demo.layout = "her2st"
    config.demo.spots = 104
    config.demo.patch_size_px = 112
    config.demo.tile_size_px = 0  # of models of tiles
    config.demo.patients = 5
    config.demo.batch_size = 16
    config.demo.num_epochs = 10
    config.demo.optimizer = "adamw"
    config.demo.learning_rate = 1e-3
    config.demo.schedule = "cosine"
    return config
