import { checkJsonAt, forbiddenKey, invalid, isPlain, type Place } from './check-json.ts'
import { isJsonObject } from './json.ts'
import type {
  AssistantMessage,
  AudioPart,
  ChatRequest,
  FilePart,
  ImagePart,
  Message,
  OtherPart,
  Part,
  PromptMessage,
  ReasoningPart,
  ResponseFormat,
  TextPart,
  Tool,
  ToolCall,
  ToolMessage
} from './request.ts'

/**
 * Refuses what no provider could answer, before a socket opens: missing or wrong fields, numbers out of range, and what
 * `checkJson` refuses. A field the contract does not know is refused too, for it would be dropped in silence.
 *
 * @throws {MillraceError} `invalid-request`; `details.path` names the field, such as `messages[2].role`
 *
 * @example
 * checkRequest(JSON.parse(body))
 */
export function checkRequest(request: ChatRequest): void {
  checkFields(request, '', undefined)
}

/**
 * The same for one message, as `messages[index]`.
 *
 * @throws {MillraceError} `invalid-request`; `details.path` names the field
 *
 * @example
 * for (const [index, message] of history.entries()) checkMessage(message, index)
 */
export function checkMessage(message: Message, index: number): void {
  messageFields(message, index, { key: 'messages', parent: undefined })
}

/** What of a request stands beside its messages and is read by the model. */
export type BesideMessages = Pick<ChatRequest, 'tools' | 'toolChoice' | 'responseFormat'>

/**
 * The same for what stands beside the messages.
 *
 * @throws {MillraceError} `invalid-request`; `details.path` names the field, such as `tools[0].name`
 *
 * @example
 * checkBeside({ tools })
 */
export function checkBeside(beside: BesideMessages): void {
  besideFields(beside, '', undefined)
}

/** Key and parent come apart: a place is made for what holds others, and for an error, not for each field. */
type Check = (value: unknown, key: string | number, parent: Place | undefined) => void
type RequiredKey<T> = { [K in keyof T]-?: undefined extends T[K] ? never : K }[keyof T]
// A new field of the contract does not compile until it is checked here.
type Mandatory<T> = { readonly [K in RequiredKey<T>]: Check }
type Optional<T> = { readonly [K in Exclude<keyof T, RequiredKey<T>>]: Check }

function fields<T>(what: string, mandatory: Mandatory<T>, optional: Optional<T>): Check {
  const mandatoryKeys = Object.keys(mandatory)
  const checks = new Map<string, Check>([...Object.entries<Check>(mandatory), ...Object.entries<Check>(optional)])
  return (value, at, parent) => {
    const place: Place = { key: at, parent }
    if (!isJsonObject(value) || !isPlain(value)) throw invalid(place, `must be ${what}: a plain object`)
    for (const key of mandatoryKeys) {
      if (value[key] === undefined) throw invalid({ key, parent: place }, 'is missing')
    }
    for (const key of Object.keys(value)) {
      if (key === '__proto__') throw forbiddenKey(place)
      const child = value[key]
      if (child === undefined) continue
      const check = checks.get(key)
      if (check === undefined) throw unknownField(key, place, what)
      check(child, key, place)
    }
  }
}

function unknownField(key: string, parent: Place, what: string): Error {
  return invalid({ key, parent }, `is no field of ${what}; put fields of the provider into extra`)
}

function oneOf<K extends string>(what: string, key: string, kinds: Readonly<Record<K, Check>>): Check {
  const checks = new Map<unknown, Check>(Object.entries<Check>(kinds))
  const names = [...checks.keys()].join(', ')
  return (value, at, parent) => {
    if (!isJsonObject(value)) throw invalid({ key: at, parent }, `must be ${what}: a plain object`)
    const check = checks.get(value[key])
    if (check === undefined) throw invalid({ key, parent: { key: at, parent } }, `must be one of ${names}`)
    check(value, at, parent)
  }
}

function list(of: Check): Check {
  return (value, key, parent) => {
    const place: Place = { key, parent }
    if (!Array.isArray(value)) throw invalid(place, 'must be an array')
    for (let index = 0; index < value.length; index++) of(value[index], index, place)
  }
}

const string: Check = (value, key, parent) => {
  if (typeof value !== 'string') throw invalid({ key, parent }, 'must be a string')
}
const name: Check = (value, key, parent) => {
  if (typeof value !== 'string' || value === '') throw invalid({ key, parent }, 'must be a non-empty string')
}
const flag: Check = (value, key, parent) => {
  if (typeof value !== 'boolean') throw invalid({ key, parent }, 'must be true or false')
}
const jsonObject: Check = (value, key, parent) => {
  if (!isJsonObject(value)) throw invalid({ key, parent }, 'must be an object of JSON values')
  checkJsonAt(value, { key, parent })
}
function wholeNumber(low: number): Check {
  return (value, key, parent) => {
    if (Number.isSafeInteger(value) && (value as number) >= low) return
    throw invalid({ key, parent }, `must be a whole number of at least ${low}`)
  }
}
function numberUpTo(high: number): Check {
  return (value, key, parent) => {
    if (typeof value === 'number' && value >= 0 && value <= high) return
    throw invalid({ key, parent }, `must be a number ${high === Number.MAX_VALUE ? 'of at least 0' : `from 0 to ${high}`}`)
  }
}
function text(...allowed: readonly string[]): Check {
  return (value, key, parent) => {
    if (!allowed.includes(value as string)) throw invalid({ key, parent }, `must be one of ${allowed.join(', ')}`)
  }
}
/** The tag of a union: `oneOf` has looked at it. */
const tag: Check = () => {}
const extra = { extra: jsonObject }

const checkFile: Check = fields<FilePart>('a file part', { type: tag }, { fileId: name, url: name, filename: string, ...extra })

const checkPart = oneOf<Part['type']>('a part', 'type', {
  text: fields<TextPart>('a text part', { type: tag, text: string }, extra),
  image: fields<ImagePart>('an image part', { type: tag, url: name }, { detail: text('low', 'high', 'auto'), ...extra }),
  audio: fields<AudioPart>('an audio part', { type: tag, data: string, format: name }, extra),
  file(value, key, parent) {
    checkFile(value, key, parent)
    const { fileId, url } = value as FilePart
    if (fileId === undefined && url === undefined) throw invalid({ key, parent }, 'must have a fileId or a url')
  },
  reasoning: fields<ReasoningPart>('a reasoning part', { type: tag, text: string }, { signature: string, ...extra }),
  other: fields<OtherPart>('an other part', { type: tag, value: jsonObject }, {})
})
const parts = list(checkPart)

const content: Check = (value, key, parent) => {
  if (typeof value === 'string') return
  if (!Array.isArray(value)) throw invalid({ key, parent }, 'must be a string or an array of parts')
  parts(value, key, parent)
}

const toolCall = fields<ToolCall>('a tool call', { id: name, name, arguments: string }, {})
const prompt = fields<PromptMessage>('a prompt message', { role: tag, content }, { name: string, ...extra })

const messageFields = oneOf<Message['role']>('a message', 'role', {
  system: prompt,
  developer: prompt,
  user: prompt,
  assistant: fields<AssistantMessage>(
    'an assistant message',
    { role: tag, content },
    { name: string, toolCalls: list(toolCall), ...extra }
  ),
  tool: fields<ToolMessage>('a tool message', { role: tag, content, toolCallId: name }, extra)
})
const messages = list(messageFields)

const toolChoiceName = fields<{ name: string }>('a tool choice', { name }, {})

const beside: Optional<BesideMessages> = {
  tools: list(fields<Tool>('a tool', { name }, { description: string, parameters: jsonObject, strict: flag, ...extra })),
  toolChoice(value, key, parent) {
    if (value === 'auto' || value === 'none' || value === 'required') return
    if (!isJsonObject(value)) throw invalid({ key, parent }, "must be 'auto', 'none', 'required' or { name }")
    toolChoiceName(value, key, parent)
  },
  responseFormat: oneOf<ResponseFormat['type']>('a response format', 'type', {
    text: fields<{ type: 'text' }>('a text format', { type: tag }, {}),
    json: fields<{ type: 'json' }>('a json format', { type: tag }, {}),
    'json-schema': fields<Extract<ResponseFormat, { type: 'json-schema' }>>(
      'a json-schema format',
      { type: tag, name, schema: jsonObject },
      { description: string, strict: flag }
    )
  })
}
const besideFields = fields<BesideMessages>('what stands beside messages', {}, beside)

const checkFields = fields<ChatRequest>(
  'a request',
  {
    model: name,
    messages(value, key, parent) {
      messages(value, key, parent)
      if ((value as readonly Message[]).length === 0) throw invalid({ key, parent }, 'must hold at least one message')
    }
  },
  {
    ...beside,
    maxOutputTokens: wholeNumber(1),
    temperature: numberUpTo(Number.MAX_VALUE),
    topP: numberUpTo(1),
    stop: list(name),
    seed: wholeNumber(0),
    ...extra
  }
)
