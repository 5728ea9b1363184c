import { isJsonObject, type Json, type JsonObject, parseJson } from '@millrace/core'
import type { Line } from './lines.ts'

/** One request of a batch file. */
export interface Item {
  readonly line: number
  readonly customId: string
  /** Of the endpoint, such as `/v1/chat/completions`. */
  readonly path: string
  readonly body: JsonObject
}

/** A line that is no request, and why. */
export interface BrokenLine {
  readonly line: number
  readonly problem: string
  readonly customId?: string | undefined
}

export type FormatName = 'openai' | 'anthropic'

/**
 * The request of a line of a batch file, in OpenAI's or Anthropic's format.
 *
 * @example
 * readItem({ number: 1, text: '{"custom_id":"a","params":{"model":"claude","messages":[]}}' }, 'anthropic')
 */
export function readItem(line: Line, format: FormatName): Item | BrokenLine {
  const broken = (problem: string, customId?: string): BrokenLine => ({ line: line.number, problem, customId })
  if (line.problem !== undefined) return broken(line.problem)
  const json = parseJson(line.text)
  if (json === undefined) return broken('is not valid JSON')
  if (!isJsonObject(json)) return broken('must be a JSON object')
  const { custom_id: customId } = json
  if (typeof customId !== 'string' || customId === '') return broken('needs a custom_id, a text that is not empty')
  if (json.response !== undefined || json.result !== undefined)
    return broken('is a result, not a request: give the input file', customId)
  const request = format === 'anthropic' ? anthropicRequest(json) : openaiRequest(json)
  if (typeof request === 'string') return broken(request, customId)
  const unsendable = problemOf(request.body)
  if (unsendable !== undefined) return broken(unsendable, customId)
  if (request.body.stream === true) return broken('asks for a stream: remove "stream"', customId)
  return { line: line.number, customId, ...request }
}

/** By the first line that tells; OpenAI's where none does. */
export function formatOf(line: Line): FormatName {
  const json = line.problem === undefined ? parseJson(line.text) : undefined
  return isJsonObject(json) && json.params !== undefined && json.body === undefined ? 'anthropic' : 'openai'
}

type Request = Pick<Item, 'path' | 'body'>

function anthropicRequest({ params }: JsonObject): Request | string {
  return isJsonObject(params) ? { path: '/v1/messages', body: params } : 'needs "params", the request as a JSON object'
}

function openaiRequest({ method, url, body }: JsonObject): Request | string {
  if (method !== 'POST') return 'needs "method": "POST"'
  if (typeof url !== 'string' || !isPath(url)) return 'needs a "url" such as "/v1/chat/completions": a path, not an address'
  return isJsonObject(body) ? { path: url, body } : 'needs "body", the request as a JSON object'
}

/** What stays below the base URL: `//host` and `..` would leave it, and servers read `..;` and `%2e%2e%2f` as `../` too. */
function isPath(url: string): boolean {
  return /^(?:\/(?!\.\.?(?:\/|$))[\w.~:@!$&'()*+,=-]+)+$/.test(url)
}

/** Deeper than any request, and far from where the stack ends. */
const maxDepth = 1000

/** What `JSON.stringify` could not write again as it was. */
function problemOf(body: JsonObject): string | undefined {
  const open: [value: Json, depth: number][] = [[body, 1]]
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const [value, depth] = next
    if (typeof value === 'number' && !Number.isFinite(value)) return 'holds a number beyond 1.8e308, which cannot be sent'
    if (typeof value !== 'object' || value === null) continue
    if (depth > maxDepth) return `is nested deeper than ${maxDepth}`
    for (const inner of Object.values(value)) if (inner !== undefined) open.push([inner, depth + 1])
  }
  return undefined
}
