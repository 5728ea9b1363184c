import { type CallEnd, type ChatRequest, inputTokens, isMillraceError, type NoteSource, outputTokens } from '@millrace/core'
import type { Attributes } from '@opentelemetry/api'
import { attribute, other } from './semconv.ts'

/** Long enough for every model's name; a longer one is somebody's mistake or mischief. */
const maxChars = 128

/** Well-formed: two halves of characters would be written as one and the same series. */
export const clip = (text: string): string => (text.length > maxChars ? text.slice(0, maxChars) : text).toWellFormed()

/** The model asked for, or undefined: what arrives here may not have been checked yet. */
export function modelOf(request: ChatRequest): string | undefined {
  const model: unknown = request?.model
  return typeof model === 'string' && model !== '' ? clip(model) : undefined
}

/** Model, mode and numbers of a request; never its messages, tools, stop sequences or `extra`. */
export function requestAttributes(request: ChatRequest, stream: boolean): Attributes {
  return {
    [attribute.operation]: 'chat',
    ...present(attribute.requestModel, modelOf(request)),
    ...(stream ? { [attribute.requestStream]: true } : {}),
    ...numeric(attribute.requestMaxTokens, request?.maxOutputTokens),
    ...numeric(attribute.requestTemperature, request?.temperature),
    ...numeric(attribute.requestTopP, request?.topP),
    ...numeric(attribute.requestSeed, request?.seed),
    ...present(attribute.outputType, outputTypes[request?.responseFormat?.type ?? ''])
  }
}

const outputTypes: Readonly<Record<string, string>> = { text: 'text', json: 'json', 'json-schema': 'json' }

/** How a call ended, in names and numbers. */
export function endAttributes(end: CallEnd): Attributes {
  return {
    [attribute.outcome]: end.outcome,
    [attribute.provider]: providerOf(end),
    [attribute.contents]: end.contents,
    ...present(attribute.responseModel, end.model),
    ...present(attribute.responseId, end.id),
    ...(end.finish === undefined ? {} : { [attribute.finishReasons]: [end.finish] }),
    ...(end.stream && end.firstContentMs !== undefined ? { [attribute.timeToFirstChunk]: end.firstContentMs / 1000 } : {}),
    ...(end.outcome === 'error' ? errorAttributes(end.error) : {}),
    ...(end.overheadMs === undefined ? {} : { [attribute.overheadSeconds]: end.overheadMs / 1000 }),
    ...usageAttributes(end),
    ...noteAttributes(end.notes)
  }
}

/** What was billed, under the names that backends add up and price; what was saved under names of our own. */
function usageAttributes({ usage, cost, saved }: CallEnd): Attributes {
  const worth = { ...numeric(attribute.costUsd, cost), ...numeric(attribute.costSavedUsd, saved) }
  if (usage === undefined) return worth
  const { billed } = usage
  return {
    [billed ? attribute.inputTokens : attribute.savedInputTokens]: inputTokens(usage),
    [billed ? attribute.outputTokens : attribute.savedOutputTokens]: outputTokens(usage),
    ...(billed
      ? {
          [attribute.cacheReadTokens]: usage.input.cacheRead,
          [attribute.cacheCreationTokens]: usage.input.cacheWrite,
          [attribute.reasoningTokens]: usage.output.reasoning
        }
      : {}),
    [attribute.usageBilled]: billed,
    ...(usage.estimated ? { [attribute.usageEstimated]: true } : {}),
    ...worth
  }
}

/** The code of a `MillraceError`; `_OTHER` for any other, whose name and message are not ours to show. */
export function errorType(error: unknown): string {
  return isMillraceError(error) ? error.code : other
}

export function errorAttributes(error: unknown): Attributes {
  if (!isMillraceError(error, 'timeout')) return { [attribute.errorType]: errorType(error) }
  return { [attribute.errorType]: error.code, [attribute.clock]: error.details.clock }
}

/** Who answered; of a call that failed before anybody did, whom its error names. */
export function providerOf(end: CallEnd): string {
  const named: unknown = end.provider ?? (isMillraceError(end.error) ? end.error.context.provider : undefined)
  return typeof named === 'string' ? clip(named) : other
}

const cacheStates: ReadonlySet<unknown> = new Set(['hit', 'stale', 'joined', 'miss', 'bypass'])

/** `hit`, `stale`, `joined`, `miss` or `bypass`; undefined where no cache stood in the way. */
export function cacheStateOf(notes: CallEnd['notes']): string | undefined {
  const state = notes.cache?.state
  return cacheStates.has(state) ? (state as string) : undefined
}

/** Which numbers of the notes are shown. A list counts as its length: its members may be anything. */
const shownFacts: readonly (readonly [from: NoteSource, fact: string, attribute: string])[] = [
  ['cache', 'ageMs', attribute.cacheAgeMs],
  ['retry', 'attempts', attribute.attempts],
  ['fallback', 'tried', attribute.fallbackTried],
  ['limits', 'waitedMs', attribute.limitsWaitedMs],
  ['tokens', 'dropped', attribute.tokensDropped],
  ['tokens', 'saved', attribute.tokensSaved],
  ['tokens', 'compressed', attribute.tokensCompressed]
]

function noteAttributes(notes: CallEnd['notes']): Attributes {
  const shown: Attributes = { ...present(attribute.cacheState, cacheStateOf(notes)) }
  const hedge = notes.hedge?.outcome
  if (hedge === 'won' || hedge === 'lost') shown[attribute.hedge] = hedge
  for (const [from, fact, name] of shownFacts) {
    const value = notes[from]?.[fact]
    if (typeof value === 'number') shown[name] = value
    else if (Array.isArray(value)) shown[name] = value.length
  }
  return shown
}

const maxCallerAttributes = 32
const maxCallerChars = 1024

/** What the caller wants on the span, as far as it is of use there; ours are not his to set. `fail` is told of the rest. */
export function callerAttributes(told: unknown, fail: () => void): Attributes {
  if (told === undefined) return {}
  if (typeof told !== 'object' || told === null || Array.isArray(told)) {
    fail()
    return {}
  }
  const shown: Attributes = {}
  let kept = 0
  for (const [name, value] of Object.entries(told)) {
    const isUsable = typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean'
    if (!isUsable || name.startsWith('millrace.') || kept === maxCallerAttributes) {
      fail()
      if (kept === maxCallerAttributes) break
      continue
    }
    kept++
    shown[clip(name)] = typeof value === 'string' ? value.slice(0, maxCallerChars).toWellFormed() : value
  }
  return shown
}

/** Host and port of an origin; nothing of it when it is none. */
export function serverAttributes(origin: string): Attributes {
  const url = URL.parse(origin)
  if (url === null) return {}
  const port = url.port === '' ? (url.protocol === 'https:' ? 443 : 80) : Number(url.port)
  return { [attribute.serverAddress]: clip(url.hostname), [attribute.serverPort]: port }
}

/** Host of an origin, for a label. */
export function addressOf(origin: string): string {
  return clip(URL.parse(origin)?.hostname ?? other)
}

function present(name: string, value: string | undefined): Attributes {
  return typeof value === 'string' ? { [name]: clip(value) } : {}
}

function numeric(name: string, value: unknown): Attributes {
  return typeof value === 'number' ? { [name]: value } : {}
}
