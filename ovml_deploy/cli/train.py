"""``ovml-deploy train ...``."""

from ovml_deploy.commandline import (
    INTERRUPTED,
    command,
    count,
    counts,
    flag,
    needs_extra,
    number,
)


class Train:
    """Train a head on a frozen backbone (needs the 'train' extra)."""

    @command(
        layers=count,
        queries=count,
        epochs=count,
        batch_size=count,
        lr=number,
        weight_decay=number,
        views=count,
        val_fraction=number,
        seed=count,
        checkpoint_every=count,
        top_k=counts,
        include_backbone=flag,
        resume=flag,
    )
    def qks(
        self,
        data: str,
        backbone: str,
        out: str = "runs/qks",
        pretrained: str | None = None,
        val: str | None = None,
        images: str | None = None,
        val_images: str | None = None,
        unseen: str | None = None,
        cache: str | None = None,
        loss: str = "asl",
        layers: int = 7,
        queries: int = 12,
        epochs: int = 20,
        batch_size: int = 64,
        lr: float = 1e-5,
        weight_decay: float = 1e-4,
        views: int = 2,
        val_fraction: float = 0.1,
        top_k: tuple[int, ...] = (3, 5),
        seed: int = 0,
        device: str = "auto",
        feature_dtype: str = "float16",
        checkpoint_every: int = 1000,
        include_backbone: bool = False,
        resume: bool = False,
    ) -> int:
        """Train a QKS head (arXiv 2401.01181) on images with labels; writes OUT/qks.pt.

        Args:
            data: a CSV (image_path,posi_labels,nega_labels) or a COCO instances JSON
            backbone: an open_clip model, a local-dir: folder, or a model configuration
            out: where checkpoints, log and features go
            pretrained: the backbone's weights: a tag of open_clip or a file
            val: validation data; default: a share of the training images (val_fraction)
            images: the folder relative image paths start from; default: the data file's
            val_images: the same for the validation data
            unseen: a text file of labels to keep out of training, for ZSL and GZSL figures
            cache: the folder of backbone features; default: OUT/features
            loss: asl, bce or ranking
            layers: depth of the query stack
            queries: number of query tokens
            epochs: passes over the training images
            batch_size: images a step
            lr: learning rate of AdamW
            weight_decay: of AdamW
            views: versions kept of each training image, the plain one included
            val_fraction: share of images kept for validation where there is no --val
            top_k: precision, recall and F1 are logged at these numbers of tags
            seed: of everything random
            device: auto, cpu or cuda
            feature_dtype: float16 or float32, for the cached features
            checkpoint_every: steps between checkpoints inside an epoch; 0 for none
            include_backbone: put the backbone inside qks.pt
            resume: go on where an interrupted run stopped
        """
        chosen = {name: value for name, value in locals().items() if name != "self"}
        with needs_extra("train"):
            from ovml_deploy.training.run import train_qks
        return INTERRUPTED if train_qks(**chosen).interrupted else 0
