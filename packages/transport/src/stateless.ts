import { type HttpRequest, isJsonObject, type Json, parseJson } from '@millrace/core'

/**
 * Whether a request can be sent twice with no trace but its bill: a GET or HEAD, or a POST that asks a model and neither
 * stores anything at the provider, nor goes on with something stored there, nor lets the provider run tools. What it does
 * not know is not.
 *
 * @example
 * createHedge({ eligible: (request) => isStateless(request) || request.url.endsWith('/my-own-model') })
 */
export function isStateless({ method, url, body }: HttpRequest): boolean {
  if (method === 'GET' || method === 'HEAD') return true
  if (method !== 'POST' || (typeof body !== 'string' && !(body instanceof Uint8Array))) return false
  const path = url.replace(/[?#].*$/s, '')
  if (!asksModel.test(path)) return false
  const fields = parseJson(typeof body === 'string' ? body : new TextDecoder().decode(body))
  if (!isJsonObject(fields)) return false
  // The Responses API stores every answer unless it is told not to; chat completions only when told to.
  if (path.endsWith('/responses') ? fields.store !== false : fields.store === true) return false
  if (stateful.some((name) => isSet(fields[name]))) return false
  return !isSet(fields.tools) || (Array.isArray(fields.tools) && fields.tools.every(isRunByCaller))
}

/** `/threads/{id}/messages` of the Assistants API adds to a thread: only the one under the version asks a model. */
const asksModel =
  /(\/completions|\/v1\/messages|\/responses|\/embeddings|\/rerank|\/v\d\/chat|:(generateContent|streamGenerateContent|embedContent|batchEmbedContents))$/

const stateful = [
  'previous_response_id',
  'conversation',
  'background',
  'container',
  'mcp_servers',
  'web_search_options',
  'cachedContent'
] as const

function isSet(value: Json | undefined): boolean {
  return value !== undefined && value !== null && value !== false
}

/** A function the caller runs after the answer; not a search, an interpreter or a server the provider calls meanwhile. */
function isRunByCaller(tool: Json): boolean {
  if (!isJsonObject(tool)) return false
  if (tool.type !== undefined) return tool.type === 'function' || tool.type === 'custom'
  // Anthropic's tools need no type; Google's are lists under a name of their own.
  return typeof tool.name === 'string' || Object.keys(tool).every((key) => key === 'functionDeclarations')
}
