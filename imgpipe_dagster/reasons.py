"""Why an image was rejected or not enhanced: the closed list of reason codes, each with its advice. Nothing else."""

from enum import StrEnum


class Reason(StrEnum):
    """A reason code. The value is what the tables, reports and the API show."""

    # The row
    URL_MISSING = "url_missing"
    URL_INVALID = "url_invalid"
    URL_SCHEME = "url_scheme_not_allowed"
    # The network
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    NAME_NOT_RESOLVED = "name_not_resolved"
    CONNECT_FAILED = "connect_failed"
    CONNECTION_LOST = "connection_lost"
    TLS_FAILED = "tls_failed"
    TIMEOUT = "timeout"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    HTTP_NOT_FOUND = "http_not_found"
    HTTP_FORBIDDEN = "http_forbidden"
    HTTP_RATE_LIMITED = "http_rate_limited"
    HTTP_CLIENT_ERROR = "http_client_error"
    HTTP_SERVER_ERROR = "http_server_error"
    TOO_MANY_BYTES = "too_many_bytes"
    # The file
    UNREADABLE = "unreadable"
    EMPTY_FILE = "empty_file"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TOO_MANY_PIXELS = "too_many_pixels"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    DECODERS_DISAGREE = "decoders_disagree"
    DECODE_TIMEOUT = "decode_timeout"
    DECODE_MEMORY = "decode_memory"
    DECODER_CRASHED = "decoder_crashed"
    # Enhancement
    CONFIG_INVALID = "config_invalid"
    METHOD_UNAVAILABLE = "method_unavailable"
    ORIGINAL_MISSING = "original_missing"
    ENHANCEMENT_ERROR = "enhancement_error"
    # The batch
    BATCH_FAILED = "batch_failed"

    @property
    def advice(self) -> str:
        """One sentence for people: what happened and what to do."""
        return _ADVICE[self]


_ADVICE: dict[Reason, str] = {
    Reason.URL_MISSING: "The row has no image_url: fill it in and retry.",
    Reason.URL_INVALID: "The image_url is not a URL (and no IMGPIPE_CDN_BASE_URL is set to complete it).",
    Reason.URL_SCHEME: "Only http, https and s3 in the configured bucket are fetched.",
    Reason.ADDRESS_NOT_ALLOWED: "The host's address is not public. If you trust it, set IMGPIPE_FETCH_ALLOW_NETWORKS.",
    Reason.NAME_NOT_RESOLVED: "The host name does not resolve: check the URL or the name server.",
    Reason.CONNECT_FAILED: "No connection to the server after all retries: retry when it is up.",
    Reason.CONNECTION_LOST: "The server closed the connection before the whole file came, in every attempt.",
    Reason.TLS_FAILED: "The server's certificate could not be verified.",
    Reason.TIMEOUT: "The file did not come within the time limit.",
    Reason.TOO_MANY_REDIRECTS: "The URL redirects more often than the limit.",
    Reason.HTTP_NOT_FOUND: "The CDN or the store has no such file (any more).",
    Reason.HTTP_FORBIDDEN: "The CDN refuses access (401 or 403).",
    Reason.HTTP_RATE_LIMITED: "The CDN answered 429 to every attempt: retry later or lower IMGPIPE_FETCH_CONNECTIONS.",
    Reason.HTTP_CLIENT_ERROR: "The CDN refuses the request with another 4xx status.",
    Reason.HTTP_SERVER_ERROR: "The CDN answered 5xx to every attempt: retry when it is healthy.",
    Reason.TOO_MANY_BYTES: "The file is larger than IMGPIPE_FETCH_MAX_BYTES.",
    Reason.UNREADABLE: "The file could not be opened: look at its permissions.",
    Reason.EMPTY_FILE: "The file has no bytes.",
    Reason.NOT_AN_IMAGE: "The content is not an image (a web page or text, for instance), whatever its name says.",
    Reason.UNSUPPORTED_FORMAT: "Not one of JPEG, PNG, GIF, WebP, BMP, TIFF, or a variant that is not supported.",
    Reason.TOO_MANY_PIXELS: "The picture has more pixels than IMGPIPE_MAX_PIXELS; it was not decoded.",
    Reason.TRUNCATED: "The file ends too early: upload it again.",
    Reason.CORRUPT: "The file is damaged: upload it again.",
    Reason.DECODERS_DISAGREE: "One decoder reads this file and another refuses it: its pixels cannot be trusted.",
    Reason.DECODE_TIMEOUT: "Decoding took longer than the limit and was stopped.",
    Reason.DECODE_MEMORY: "Decoding needed more memory than the limit and was stopped.",
    Reason.DECODER_CRASHED: "The decoder crashed on this file.",
    Reason.CONFIG_INVALID: "The enhancement settings of its group, SKU or image are wrong: correct them, run again.",
    Reason.METHOD_UNAVAILABLE: "The background method lacks its package or its model: install it or choose grabcut.",
    Reason.ORIGINAL_MISSING: "The original is no longer in the store: the image has to be fetched again.",
    Reason.ENHANCEMENT_ERROR: "Enhancement failed on this picture; the detail in its row says how. Please report it.",
    Reason.BATCH_FAILED: "The image's batch failed after all attempts: read its run's log, retry in small batches.",
}
