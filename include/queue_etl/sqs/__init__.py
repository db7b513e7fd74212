"""The queue: receive, delete, release and send, through libcurl or boto3."""
