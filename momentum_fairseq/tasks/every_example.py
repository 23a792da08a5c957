"""What tasks on data of the plug-in's own share."""

from typing import Any

from fairseq.tasks import FairseqTask


class EveryExampleTask(FairseqTask):
    """A task that loses no example: fairseq leaves out a last batch whose size --required-batch-size-multiple doesn't divide."""

    def get_batch_iterator(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """As in fairseq, but with every example in some batch, and workers that end with an epoch if the next has its own."""
        kwargs["required_batch_size_multiple"] = 1
        iterator = super().get_batch_iterator(dataset, *args, **kwargs)
        if not self.can_reuse_epoch_itr(dataset):
            # Kept for a next epoch, workers would wait for the garbage collector, which takes five seconds to end each.
            iterator.persistent_workers = False
        return iterator
