"""The checkpoint directory: put-if-absent commit files, snapshots, blobs and views."""
