"""Which fields of a body could lead a request elsewhere, or charge it to somebody else?

A destination and its key come from the snapshot and from nowhere else. Engines take fields that nobody has
listed, so that what is refused is listed here: what litellm refuses of clients (a test holds this list
against the installed one; GHSA for CVE-2024-6587), and relatives. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from .errors import Refusal

# fmt: off
ROUTING_FIELDS: Final = frozenset((
    # where it goes
    "api_base", "base_url", "api_host", "api_type", "api_version", "azure_endpoint", "organization_url",
    "aws_bedrock_runtime_endpoint", "aws_sts_endpoint", "aws_region_name", "sagemaker_base_url",
    "s3_endpoint_url", "s3_bucket_name", "s3_output_bucket_name", "s3_region_name", "deployment_url",
    "watsonx_url", "watsonx_region_name", "valkey_host", "valkey_port", "nvcf_function_id", "use_ssl",
    "ssl_verify", "proxy", "proxies", "http_client", "shared_session", "rust", "custom_llm_provider",
    "use_litellm_proxy", "model_list", "router_settings", "user_config", "litellm_params",
    "litellm_embedding_config", "litellm_metadata", "fallbacks", "context_window_fallbacks",
    "context_window_fallback_dict", "silent_model", "mock_response", "agentcore_runtime_session_id",
    # by which key, in whose name
    "api_key", "credentials", "litellm_credential_name", "client_secret", "azure_ad_token",
    "azure_ad_token_provider", "azure_username", "azure_password", "azure_scope", "aws_access_key_id",
    "aws_secret_access_key", "aws_session_token", "aws_role_name", "aws_web_identity_token",
    "aws_profile_name", "aws_session_name", "aws_session_tags", "aws_external_id", "aws_batch_role_arn",
    "aws_bedrock_project_id", "aws_workspace_id", "bedrock_tags", "s3_access_key_id",
    "s3_secret_access_key", "valkey_password", "vertex_project", "vertex_location", "vertex_credentials",
    "vertex_ai_project", "vertex_ai_location", "vertex_ai_credentials", "workspace_id",
    "anthropic_workspace_id", "anthropic-workspace-id", "fireworks_forward_user_id",
    "user_api_key_auth_metadata", "default_headers", "default_query", "extra_headers",
    "provider_specific_header", "headers", "anthropic_organization_id", "anthropic_service_account_id",
    "anthropic_disable_workload_identity_federation", "openai_identity_provider_id",
    "openai_identity_token_file", "openai_service_account_id",
    # who else is told
    "callbacks", "success_callback", "failure_callback", "litellm_trusted_callback_vars",
    "slack_webhook_url", "turn_off_message_logging",
    "langfuse_host", "langfuse_public_key", "langfuse_secret", "langfuse_secret_key",
    "langfuse_environment", "langsmith_base_url", "langsmith_project", "langsmith_tenant_id",
    "lunary_public_key", "arize_space_id", "arize_space_key", "arize_error_sampling_rate",
    "arize_success_sampling_rate", "braintrust_host", "braintrust_project", "dd_agent_host",
    "dd_agent_port", "dd_site", "newrelic_region", "posthog_host", "posthog_api_url",
    "signoz_ingestion_endpoint", "signoz_ingestion_key", "weave_project_id",
    # for how much
    "tiered_pricing", "output_vector_size", "regional_endpoint_uplift_multiplier",
    "regional_processing_uplift_multiplier_eu", "regional_processing_uplift_multiplier_us",
))
# fmt: on
#: Where such fields are looked for, besides the top level.
NESTS: Final = ("extra_body", "extra_headers", "metadata")
#: Families that grow by a name with every release of litellm.
_BEGINNINGS: Final = (
    "gcs_",
    "anthropic_federation_",
    "anthropic_identity_",
    "anthropic_issuer_",
    "anthropic_keycloak_",
)
_ENDINGS: Final = ("_api_key", "_token_cost")


def steers(field: str) -> bool:
    """Whether a field is refused, by its name in lower case."""
    return (
        field in ROUTING_FIELDS
        or field.startswith(_BEGINNINGS)
        or field.endswith(_ENDINGS)
        or "cost_per_" in field
        or "_token_cost_" in field
    )


def refuse_steering(fields: Iterable[str], document: Mapping[str, Any]) -> None:
    """Raises Refusal if one of these fields of a document steers, or one that is nested in it."""
    _refuse_first(fields, "")
    for nest in NESTS:
        inner = document.get(nest)
        if isinstance(inner, dict):
            _refuse_first(inner, f"{nest}.")


def _refuse_first(fields: Iterable[str], within: str) -> None:
    for field in fields:
        if steers(field.casefold()):  # some engines do not tell API_BASE from api_base
            param = f"{within}{field[:100]}"
            message = (
                f"'{param}' is refused: where a request goes, and on whose account, is decided by the"
                " experiment alone."
            )
            raise Refusal(400, "routing_field_refused", message, param)
