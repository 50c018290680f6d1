#!/bin/sh
# Fuzzes the HTTP API with Schemathesis, by the OpenAPI document that the server gives itself.
#   __test__/fuzz/schemathesis.sh [further options of `schemathesis run`]
# Takes SCHEMATHESIS, or installs the version below into a folder of its own. Left out are event streams, which do not end,
# /readyz, of which 503 is an ordinary answer, and the check that whatever fits the schema is accepted: names and
# addresses that fit it may be those of nobody.
set -eu
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
if [ -z "${SCHEMATHESIS:-}" ]; then
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install --quiet schemathesis==4.32.5
  SCHEMATHESIS=$work/venv/bin/schemathesis
fi
mkfifo "$work/stdin"
node --import ./__test__/support/typescript.mjs __test__/fuzz/balancer.ts <"$work/stdin" >"$work/address" &
balancer=$!
exec 3>"$work/stdin"
trap 'exec 3>&-; wait $balancer; rm -rf "$work"' EXIT
while [ ! -s "$work/address" ]; do
  kill -0 $balancer
  sleep 0.2
done
address=$(cat "$work/address")
# What it remembers between runs it keeps where it is run.
cd "$work"
"$SCHEMATHESIS" run "$address/api/v1/openapi.json" --url "$address" \
  --header "Authorization: Bearer t0ken" \
  --exclude-operation-id events --exclude-operation-id live --exclude-operation-id explainLive \
  --exclude-operation-id readyz --exclude-checks positive_data_acceptance \
  --request-timeout 15 \
  "$@"
curl -sf -o /dev/null "$address/healthz"
