// Validates an HTTPRoute of the Gateway API, as JSON on stdin, against the schema of its resource definition.

import { readFileSync } from 'node:fs';
import { HTTPRoute } from '@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute';

new HTTPRoute(JSON.parse(readFileSync(0))).validate();
