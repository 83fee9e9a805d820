"""What runs inside a worker process: receive, invoke, report; every activation is a transaction."""
