import { existsSync, readFileSync } from 'node:fs'
import { isJsonObject, type Json, type JsonObject, type Message, parseJson, type Tool } from '@millrace/core'

/** Recorded requests and their bills, beside the checkout; tests that need them are skipped, with one line, where they are absent. */
const folder: URL = new URL('../../../../shared/real/recordings/', import.meta.url)
export const recorded: boolean = existsSync(folder)
if (!recorded) console.warn(`skipped: no recorded requests at ${folder.pathname}`)

export interface Bill {
  readonly id: string
  readonly model: string
  readonly messages: readonly Message[]
  readonly tools: readonly Tool[]
  /** Input tokens, those read from a cache included. */
  readonly charged: number
}

interface Entry {
  readonly id: string
  readonly file: string
  readonly provider: string
  readonly api: string
  readonly model: string | null
  readonly hasRequest: boolean
  readonly usage: { readonly input: number; readonly cached?: number } | null
}

/** Fields of a request by which the provider is given more to read than messages and tools. */
const besides = [
  'cachedContent',
  'documents',
  'format',
  'functions',
  'output_format',
  'previous_response_id',
  'reasoning',
  'response_format',
  'text',
  'thinking'
]

/** Requests of nothing but texts, and of texts and function tools. */
export function bills(): Bill[] {
  if (!recorded) return []
  const index = readFileSync(new URL('index.jsonl', folder), 'utf8').trim().split('\n')
  return index.flatMap((line) => {
    const entry = JSON.parse(line) as Entry
    if (!entry.hasRequest || entry.usage === null) return []
    const recording = JSON.parse(readFileSync(new URL(entry.file, folder), 'utf8')) as { request: { body: Json } }
    const { body } = recording.request
    const request = typeof body === 'string' ? parseJson(body) : body
    if (!isJsonObject(request) || besides.some((field) => field in request)) return []
    const messages = messagesOf(entry.api, request)
    const tools = toolsOf(request)
    if (messages === undefined || tools === undefined) return []
    // Anthropic counts what is cached beside the rest, and so does Grok on Azure.
    const apart = entry.provider === 'anthropic' || (entry.provider === 'azure' && entry.model?.startsWith('grok') === true)
    const charged = entry.usage.input + (apart ? (entry.usage.cached ?? 0) : 0)
    return [{ id: entry.id, model: entry.model ?? (request['model'] as string), messages, tools, charged }]
  })
}

function messagesOf(api: string, request: JsonObject): Message[] | undefined {
  const list = (value: Json | undefined): readonly Json[] => (Array.isArray(value) ? value : [])
  const texts: [Json | undefined, Json | undefined][] = []
  switch (api) {
    case 'openai.chat':
    case 'anthropic.messages':
    case 'cohere.v2.chat':
    case 'ollama.chat':
    case 'bedrock.converse':
      if (request['system'] !== undefined) texts.push(['system', request['system']])
      for (const message of list(request['messages'])) {
        if (!isJsonObject(message) || 'tool_calls' in message || 'images' in message) return undefined
        texts.push([message['role'], message['content']])
      }
      break
    case 'gemini.generateContent': {
      const system = request['systemInstruction'] ?? request['system_instruction']
      if (isJsonObject(system)) texts.push(['system', system['parts']])
      for (const content of list(request['contents']))
        if (isJsonObject(content)) texts.push([content['role'] === 'model' ? 'assistant' : 'user', content['parts']])
      break
    }
    case 'openai.responses':
      if (typeof request['instructions'] === 'string') texts.push(['system', request['instructions']])
      if (typeof request['input'] === 'string') texts.push(['user', request['input']])
      for (const item of list(request['input'])) {
        if (!isJsonObject(item) || (item['type'] ?? 'message') !== 'message') return undefined
        texts.push([item['role'], item['content']])
      }
      break
    default:
      return undefined
  }
  const messages: Message[] = []
  for (const [role, content] of texts) {
    const text = textOf(content)
    if (text === undefined || (role !== 'system' && role !== 'developer' && role !== 'user' && role !== 'assistant'))
      return undefined
    messages.push({ role, content: text })
  }
  return messages.length === 0 ? undefined : messages
}

/** Undefined when there is more than text. */
function textOf(content: Json | undefined): string | undefined {
  if (typeof content === 'string') return content
  if (!Array.isArray(content)) return undefined
  let text = ''
  for (const part of content) {
    if (!isJsonObject(part) || typeof part['text'] !== 'string' || 'thought' in part || 'thoughtSignature' in part)
      return undefined
    text += part['text']
  }
  return text
}

/** Undefined when one is built in: what it brings is the provider's secret. */
function toolsOf(request: JsonObject): Tool[] | undefined {
  const config = request['toolConfig']
  const given = isJsonObject(config) ? config['tools'] : request['tools']
  const tools: Tool[] = []
  for (const tool of Array.isArray(given) ? given : []) {
    if (!isJsonObject(tool)) return undefined
    const declared = tool['functionDeclarations'] ??
      tool['function_declarations'] ?? [tool['function'] ?? tool['toolSpec'] ?? tool]
    for (const one of declared as readonly Json[]) {
      if (!isJsonObject(one)) return undefined
      const wrapped = one['inputSchema']
      const parameters = one['parameters'] ?? one['input_schema'] ?? (isJsonObject(wrapped) ? wrapped['json'] : undefined)
      const { name, description } = one
      if (typeof name !== 'string') return undefined
      tools.push({
        name,
        ...(typeof description === 'string' && { description }),
        ...(isJsonObject(parameters) && { parameters })
      })
    }
  }
  return tools
}
