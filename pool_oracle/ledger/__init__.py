"""The durable truth: the share log on disk and its replay. Knows neither stratum nor Ethereum."""
