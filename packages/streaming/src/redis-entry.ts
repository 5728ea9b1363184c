import { randomBytes } from 'node:crypto'
import type { SharedLogState } from '@millrace/core'

/**
 * How a log lies in its Redis stream. An entry has one field, named after its writer. Its id is the number of items up to its
 * last, so that reading behind id `n` gives item number `n` and all that follow, and writing an entry twice changes nothing.
 * The value is a JSON array of the items, or the last word, which has the largest id there is.
 */
export type LogEntry =
  | { readonly type: 'items'; readonly writer: string; readonly end: number; readonly items: readonly string[] }
  | { readonly type: LastWord; readonly writer: string; readonly length: number }

/** `broken`: something could not be written, or the process of the writer was closed. */
export type LastWord = 'end' | 'too-large' | 'broken'

/** The key of a log, and who writes it. */
export interface Owner {
  readonly key: string
  readonly writer: string
}

export function newWriterName(): string {
  return randomBytes(8).toString('hex')
}

/** The name of a writer that hears what is put into `inbox`. */
export function newHearerName(inbox: string): string {
  return `${inbox}.${newWriterName()}`
}

const lastId = `${Number.MAX_SAFE_INTEGER}-0`
const expire = "return redis.call('PEXPIRE', KEYS[1], ARGV[4])"
const add = "redis.call('XADD', KEYS[1], ARGV[1], ARGV[2], ARGV[3])"

// An entry of ours that is there already was added by a command whose answer got lost.
const addOnce = `
local added = redis.p${add.slice('redis.'.length)}
if type(added) == 'table' and added.err then
  local there = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
  if not there or there[2][1] ~= ARGV[2] then return added end
end
${expire}`

// Another writer's log is left alone, and so is a key that is none.
const mine = `
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last and last[2][1] ~= ARGV[2] then return redis.error_reply('ERR another writer') end`

// Nobody reads on after a failure: what it follows would only take space.
const replace = `${mine}
redis.call('DEL', KEYS[1])
${add}
${expire}`

const keep = `${mine}
if not last then ${add} end
${expire}`

const last = `
local entry = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not entry then return false end
return {entry[1], entry[2][1], entry[1] == ARGV[1] and entry[2][2] or ''}`

const addToInbox = `
redis.call('XADD', KEYS[1], 'MAXLEN', '~', 10000, '*', ARGV[1], ARGV[2])
${expire}`

type Command = readonly string[]

/** Adds items of which the last makes it `end`, and keeps the log for `ttlMs` from now. May be repeated. */
export function addItems({ key, writer }: Owner, items: readonly string[], end: number, ttlMs: number): Command {
  return ['EVAL', addOnce, '1', key, `${end}-0`, writer, JSON.stringify(items), `${ttlMs}`]
}

export function addLastWord({ key, writer }: Owner, word: LastWord, length: number, ttlMs: number): Command {
  return ['EVAL', word === 'end' ? addOnce : replace, '1', key, lastId, writer, `${word} ${length}`, `${ttlMs}`]
}

/**
 * Keeps a log whose writer has nothing to say. One that is not there begins with an entry of no items, which shows a reader
 * of earlier ones that they are lost.
 */
export function keepLog({ key, writer }: Owner, length: number, ttlMs: number): Command {
  return ['EVAL', keep, '1', key, `${length}-1`, writer, '[]', `${ttlMs}`]
}

/** The last entry of a log without its items. */
export function lastEntry(key: string): Command {
  return ['EVAL', last, '1', key, lastId]
}

/** Of a reply to `lastEntry`: how far the log is, and where its writer hears; `undefined` when there is no log. */
export function stateOf(reply: unknown): (SharedLogState & { readonly inbox: string | undefined }) | 'unexpected' | undefined {
  if (reply === null) return undefined
  const [id, writer, value] = Array.isArray(reply) ? (reply as unknown[]) : []
  if (typeof writer !== 'string' || typeof value !== 'string') return 'unexpected'
  const entry = entryOf([id, [writer, value === '' ? '[]' : value]])
  if (entry === undefined) return 'unexpected'
  if (entry.type !== 'items') return { open: false, broken: entry.type !== 'end', length: entry.length, inbox: undefined }
  return { open: true, broken: false, length: entry.end, inbox: /^([0-9a-f]{16})\.[0-9a-f]{16}$/.exec(writer)?.[1] }
}

/** Puts a word to the writer of the log `key` into an inbox, of which the last ten thousand or so are kept. */
export function addWord(inbox: string, key: string, word: string, ttlMs: number): Command {
  return ['EVAL', addToInbox, '1', inbox, key, word, '', `${ttlMs}`]
}

/** At most `count` of what has come into an inbox behind the entry `cursor`. */
export function readWords(inbox: string, cursor: string, count: number): Command {
  return ['XREAD', 'COUNT', `${count}`, 'STREAMS', inbox, cursor]
}

/** @throws {TypeError} for what is no reply to `readWords` */
export function wordsOf(reply: unknown): { readonly id: string; readonly key: string; readonly word: string }[] {
  if (reply === null) return []
  const [stream] = reply as [[string, [string, string[]][]]]
  return stream[1].map(([id, [key = '', word = '']]) => ({ id, key, word }))
}

/** Of each log, at most `count` entries behind item number `at`. */
export function readBehind(places: readonly { readonly key: string; readonly at: number }[], count: number): Command {
  const [keys, ids] = [places.map(({ key }) => key), places.map(({ at }) => `${at}-0`)]
  return ['XREAD', 'COUNT', `${count}`, 'STREAMS', ...keys, ...ids]
}

/** The entries of each key in a reply to `readBehind`, if it is one; `undefined` stands for an entry that is none of ours. */
export function entriesOf(reply: unknown): Map<string, (LogEntry | undefined)[]> | undefined {
  if (reply !== null && !Array.isArray(reply)) return undefined
  const found = new Map<string, (LogEntry | undefined)[]>()
  for (const stream of (reply ?? []) as unknown[]) {
    const [key, entries] = Array.isArray(stream) ? (stream as unknown[]) : []
    if (typeof key !== 'string' || !Array.isArray(entries)) return undefined
    found.set(key, (entries as unknown[]).map(entryOf))
  }
  return found
}

function entryOf(entry: unknown): LogEntry | undefined {
  const [id, fields] = Array.isArray(entry) ? (entry as unknown[]) : []
  if (typeof id !== 'string' || !Array.isArray(fields) || fields.length !== 2) return undefined
  const [writer, value] = fields as unknown[]
  if (typeof writer !== 'string' || typeof value !== 'string') return undefined
  const word = /^(end|too-large|broken) (\d{1,15})$/.exec(value)
  if (word !== null) return id === lastId ? { type: word[1] as LastWord, writer, length: Number(word[2]) } : undefined
  const end = Number(/^(\d{1,15})-[01]$/.exec(id)?.[1])
  const items = itemsOf(value)
  if (items === undefined || !(end >= items.length)) return undefined
  return { type: 'items', writer, end, items }
}

function itemsOf(text: string): readonly string[] | undefined {
  let items: unknown
  try {
    items = JSON.parse(text)
  } catch {
    return undefined // told to the reader as an entry that is none of ours
  }
  return Array.isArray(items) && items.every((item) => typeof item === 'string') ? items : undefined
}
