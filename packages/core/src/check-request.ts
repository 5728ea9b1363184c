import { MillraceError } from './error.ts'
import { isJsonObject } from './json.ts'
import type { ChatRequest, Message, Part } from './request.ts'

/** Deeper nesting is refused: what cannot be walked safely cannot be serialised safely by all who come after. */
const maxDepth = 200

/**
 * Refuses what no provider could answer, before a socket opens.
 *
 * @throws {MillraceError} `invalid-request`; `details.path` names the field, such as `messages[2].role`
 *
 * @example
 * checkRequest(JSON.parse(body))
 */
export function checkRequest(request: ChatRequest): void {
  if (!isJsonObject(request)) throw invalid('', 'a request must be an object with model and messages')
  for (const key of Object.keys(request)) {
    if (!Object.hasOwn(fields, key)) throw invalid(key, 'is no field of a request; put fields of the provider into extra')
  }
  for (const [key, check] of fieldChecks) {
    const value = (request as unknown as Record<string, unknown>)[key]
    if (value !== undefined) check(value, key)
    else if (key === 'model' || key === 'messages') throw invalid(key, 'is missing')
  }
}

type Check = (value: unknown, path: string) => void

/** A new field of `ChatRequest` does not compile until it is checked here. */
const fields: Readonly<Record<keyof ChatRequest, Check>> = {
  model: nonEmptyString,
  messages: (value, path) => {
    if (!Array.isArray(value)) throw invalid(path, 'must be an array of messages')
    if (value.length === 0) throw invalid(path, 'must hold at least one message')
    for (let index = 0; index < value.length; index++) checkMessage(value[index], `${path}[${index}]`)
  },
  tools: (value, path) => each(value, path, checkTool),
  toolChoice: (value, path) => {
    if (value === 'auto' || value === 'none' || value === 'required') return
    if (isJsonObject(value)) return nonEmptyString(value.name, `${path}.name`)
    throw invalid(path, "must be 'auto', 'none', 'required' or { name }")
  },
  responseFormat: (value, path) => {
    if (!isJsonObject(value)) throw invalid(path, 'must be an object with a type')
    const type = value.type
    if (type === 'text' || type === 'json') return
    if (type !== 'json-schema') throw invalid(`${path}.type`, "must be 'text', 'json' or 'json-schema'")
    nonEmptyString(value.name, `${path}.name`)
    if (!isJsonObject(value.schema)) throw invalid(`${path}.schema`, 'must be a JSON Schema object')
    checkJson(value.schema, `${path}.schema`)
  },
  maxOutputTokens: (value, path) => {
    if (!Number.isSafeInteger(value) || (value as number) < 1) throw invalid(path, 'must be a whole number of at least 1')
  },
  temperature: (value, path) => numberBetween(value, path, 0, Number.MAX_VALUE),
  topP: (value, path) => numberBetween(value, path, 0, 1),
  stop: (value, path) => each(value, path, nonEmptyString),
  seed: (value, path) => {
    if (!Number.isSafeInteger(value) || (value as number) < 0) throw invalid(path, 'must be a whole number of at least 0')
  },
  extra: (value, path) => {
    if (!isJsonObject(value)) throw invalid(path, 'must be an object of JSON values')
    checkJson(value, path)
  }
}
const fieldChecks = Object.entries(fields)

const roles: ReadonlySet<unknown> = new Set<Message['role']>(['system', 'developer', 'user', 'assistant', 'tool'])

function checkMessage(message: unknown, path: string): void {
  if (!isJsonObject(message)) throw invalid(path, 'must be an object with a role and content')
  const { role, content } = message
  if (!roles.has(role)) throw invalid(`${path}.role`, 'must be system, developer, user, assistant or tool')
  if (role === 'tool') nonEmptyString(message.toolCallId, `${path}.toolCallId`)
  if (message.toolCalls !== undefined) {
    if (role !== 'assistant') throw invalid(`${path}.toolCalls`, 'belongs to an assistant message')
    each(message.toolCalls, `${path}.toolCalls`, checkToolCall)
  }
  if (Object.hasOwn(message, '__proto__')) throw forbiddenKey(path)
  checkExtra(message.extra, path)
  if (typeof content === 'string') return
  if (!Array.isArray(content)) throw invalid(`${path}.content`, 'must be a string or an array of parts')
  each(content, `${path}.content`, checkPart)
}

/** The fields of each part that must be strings. */
const partStrings: Readonly<Record<Part['type'], readonly string[]>> = {
  text: ['text'],
  image: ['url'],
  audio: ['data', 'format'],
  file: [],
  reasoning: ['text'],
  other: []
}

function checkPart(part: unknown, path: string): void {
  if (!isJsonObject(part)) throw invalid(path, 'must be a part: an object with a type')
  const type = part.type
  if (typeof type !== 'string' || !Object.hasOwn(partStrings, type)) {
    throw invalid(`${path}.type`, "must be text, image, audio, file, reasoning, or other with the provider's own part as value")
  }
  for (const key of partStrings[type as Part['type']]) {
    if (typeof part[key] !== 'string') throw invalid(`${path}.${key}`, 'must be a string')
  }
  if (type === 'file' && typeof part.fileId !== 'string' && typeof part.url !== 'string') {
    throw invalid(path, 'a file part needs fileId or url')
  }
  if (type === 'other') {
    if (!isJsonObject(part.value)) throw invalid(`${path}.value`, "must be an object: the provider's own part")
    checkJson(part.value, `${path}.value`)
  }
  if (Object.hasOwn(part, '__proto__')) throw forbiddenKey(path)
  checkExtra(part.extra, path)
}

function checkToolCall(call: unknown, path: string): void {
  if (!isJsonObject(call)) throw invalid(path, 'must be an object with id, name and arguments')
  nonEmptyString(call.id, `${path}.id`)
  nonEmptyString(call.name, `${path}.name`)
  if (typeof call.arguments !== 'string') throw invalid(`${path}.arguments`, 'must be JSON text, as the model wrote it')
}

function checkTool(tool: unknown, path: string): void {
  if (!isJsonObject(tool)) throw invalid(path, 'must be an object with a name')
  nonEmptyString(tool.name, `${path}.name`)
  if (tool.parameters !== undefined) {
    if (!isJsonObject(tool.parameters)) throw invalid(`${path}.parameters`, 'must be a JSON Schema object')
    checkJson(tool.parameters, `${path}.parameters`)
  }
  checkExtra(tool.extra, path)
}

function checkExtra(extra: unknown, path: string): void {
  if (extra === undefined) return
  if (!isJsonObject(extra)) throw invalid(`${path}.extra`, 'must be an object of JSON values')
  checkJson(extra, `${path}.extra`)
}

function each(value: unknown, path: string, check: Check): void {
  if (!Array.isArray(value)) throw invalid(path, 'must be an array')
  for (let index = 0; index < value.length; index++) check(value[index], `${path}[${index}]`)
}

function nonEmptyString(value: unknown, path: string): void {
  if (typeof value !== 'string' || value === '') throw invalid(path, 'must be a non-empty string')
}

function numberBetween(value: unknown, path: string, low: number, high: number): void {
  if (typeof value === 'number' && value >= low && value <= high) return
  throw invalid(path, `must be a number ${high === Number.MAX_VALUE ? `of at least ${low}` : `from ${low} to ${high}`}`)
}

/**
 * Refuses what JSON would bend or cannot carry: cycles, `__proto__` keys, NaN, functions, Dates, Maps, holes in arrays.
 * Iterative, for the depth is the caller's.
 *
 * @throws {MillraceError} `invalid-request` with the path of the value
 */
export function checkJson(root: unknown, rootPath: string): void {
  const onPath = new Set<object>()
  // An entry without a value marks the way back up: its object is no longer an ancestor.
  const work: { value?: unknown; path: string; leave?: object }[] = [{ value: root, path: rootPath }]
  for (let step = work.pop(); step !== undefined; step = work.pop()) {
    if (step.leave !== undefined) {
      onPath.delete(step.leave)
      continue
    }
    const { value, path } = step
    if (typeof value === 'string' || typeof value === 'boolean' || value === null) continue
    if (typeof value === 'number') {
      if (!Number.isFinite(value)) throw invalid(path, 'must be a finite number')
      continue
    }
    if (typeof value !== 'object') throw invalid(path, `must be a JSON value, not ${typeof value}`)
    if (onPath.has(value)) throw invalid(path, 'refers back to an object around it (a cycle)')
    if (onPath.size >= maxDepth) throw invalid(path, `is nested deeper than ${maxDepth}`)
    onPath.add(value)
    work.push({ path, leave: value })
    if (Array.isArray(value)) {
      for (let index = 0; index < value.length; index++) work.push({ value: value[index], path: `${path}[${index}]` })
      continue
    }
    const prototype: unknown = Object.getPrototypeOf(value)
    if (prototype !== Object.prototype && prototype !== null)
      throw invalid(path, 'must be plain JSON, not an instance of a class')
    for (const [key, child] of Object.entries(value)) {
      if (key === '__proto__') throw forbiddenKey(path)
      if (child !== undefined) work.push({ value: child, path: `${path}.${key}` })
    }
  }
}

function forbiddenKey(path: string): MillraceError<'invalid-request'> {
  return invalid(`${path}.__proto__`, 'is a key that pollutes prototypes; remove it')
}

function invalid(path: string, problem: string): MillraceError<'invalid-request'> {
  // A path is made of keys the caller chose, so it is clipped; values never get into the message.
  const where = path.length > 200 ? `${path.slice(0, 200)}…` : path
  return new MillraceError('invalid-request', where === '' ? problem : `${where} ${problem}`, { details: { path: where } })
}
