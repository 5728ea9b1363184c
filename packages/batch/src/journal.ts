import { hash, randomBytes } from 'node:crypto'
import { checkJson, checkOptions, type Json, MillraceError } from '@millrace/core'
import { createJournalFile, type JournalFile } from './journal-file.ts'
import { JournalIndex } from './journal-index.ts'
import { fieldsOf, isSound, outcomeLine } from './journal-line.ts'
import { loadJournal } from './journal-load.ts'
import { errorOf, plainError } from './recorded-error.ts'

/** Outcomes on disk: made by `openJournal`, given to `batch`, closed by you. */
export interface Journal<I = unknown> extends AsyncDisposable {
  readonly path: string
  /** Part of every idempotency key; written when the file is made. */
  readonly id: string
  /**
   * A batch begins: items are counted anew. What it gives back ends that; there is one batch at a time. Throws what writing
   * failed with, once it has.
   */
  begin(): () => void
  /** What the file knows about the next item. Throws where the item is no JSON and there is no `digest`. */
  enter(item: I): JournalEntry
  /** The recorded outcome of an entry that has one. */
  replay(entry: JournalEntry): Recorded | Promise<Recorded>
  /**
   * Resolves once the outcome is on disk; a failure of an item whose value is there is not kept. Throws `invalid-request` at once where JSON cannot carry the value, and `closed`
   * where it came too late; rejects when writing failed, and then always.
   */
  record(entry: JournalEntry, outcome: Recorded): Promise<void>
  stats(): JournalStats
  /** Writes what has been recorded, closes the file and gives the lock back. Twice is safe. */
  close(): Promise<void>
}

/** One item's place in a journal. */
export interface JournalEntry {
  readonly idempotencyKey: string
  /** Whether there is an outcome to replay. */
  readonly recorded: boolean
  /** The journal's own. */
  readonly slot: number
}

/** An outcome without its place in the input: that is told by the item. */
export type Recorded =
  | { readonly status: 'fulfilled'; readonly value: unknown }
  | { readonly status: 'rejected'; readonly reason: unknown }

export interface JournalStats {
  /** Outcomes in the file that a batch can replay. */
  readonly recorded: number
  /** Outcomes written since it was opened. */
  readonly written: number
  /** Times the disk was waited for; each took all that had settled meanwhile. */
  readonly syncs: number
  readonly bytes: number
  /** Outcomes that came after it was closed: they run again. */
  readonly refused: number
  /** Bytes of a torn last line that were cut off when it was opened. */
  readonly tornBytes: number
}

export interface JournalOptions<I = unknown> {
  /**
   * What must be the same when a batch goes on: model, prompt version and the like, as JSON. Only salted digests of it are
   * written. @default none
   */
  readonly options?: unknown
  /** What tells items apart, such as an id. @default the item as JSON, so that a changed item runs again */
  readonly digest?: ((item: I) => string) | undefined
  /** Runs items again whose recorded outcome is rejected, with another idempotency key. @default false */
  readonly retryRejected?: boolean | undefined
  /** Waits for the disk. `false` survives a killed process, but not a power cut. @default true */
  readonly fsync?: boolean | undefined
  /** Begins the journal anew, whatever is in the file: that is gone once the lock is held. @default false */
  readonly fresh?: boolean | undefined
}

/**
 * Opens a journal, or makes one: a file of lines of JSON in which `batch` keeps each outcome before it yields it. A batch
 * that is run again over the same items with the same journal replays what is there and runs the rest; what was in flight
 * at a crash is sent again with the same idempotency key. It holds the values, so only its owner may read it (mode 0600).
 * The file is locked (`<path>.lock`) against a second process; the lock of a dead one is taken over. In memory it takes
 * some 100 bytes an item, whatever the values are.
 *
 * @throws {TypeError} for wrong options
 * @throws {MillraceError} `unavailable` while another has it open, `invalid-request` where its options are not these, or
 * its folder is missing, or it is a hard link; `protocol` where it is no journal, of another version, or damaged; a torn last line is cut off instead
 *
 * @example
 * await using journal = await openJournal('answers.journal', { options: { model: 'small' } })
 * for await (const outcome of batch(prompts, ask, { journal })) console.log(outcome)
 */
export async function openJournal<I = unknown>(path: string, options: JournalOptions<I> = {}): Promise<Journal<I>> {
  if (typeof path !== 'string' || path === '') throw new TypeError('openJournal takes the path of a file')
  checkOptions<JournalOptions<I>>('openJournal', options, { options: 1, digest: 1, retryRejected: 1, fsync: 1, fresh: 1 })
  const { options: same = {}, digest, retryRejected = false, fsync = true, fresh = false } = options
  if (digest !== undefined && typeof digest !== 'function')
    throw new TypeError('digest must be a function from an item to a string')
  checkJson(same, 'options')
  const index = new JournalIndex()
  const id = randomBytes(12).toString('base64url')
  const loaded = await loadJournal(path, index, { same: same as Json, id, retryRejected, fresh })
  const file = createJournalFile(path, loaded.file, loaded.bytes, fsync ? 'synced' : 'written')
  return new FileJournal<I>(path, loaded.id, { index, file, digest, unlock: loaded.unlock, tornBytes: loaded.tornBytes })
}

interface Parts<I> {
  readonly index: JournalIndex
  readonly file: JournalFile
  readonly digest: ((item: I) => string) | undefined
  readonly unlock: () => Promise<void>
  readonly tornBytes: number
}

interface Entry extends JournalEntry {
  readonly digest: string
  readonly nth: number
}

class FileJournal<I> implements Journal<I> {
  readonly path: string
  readonly id: string
  readonly #parts: Parts<I>
  /** By slot, what is on its way to the disk. */
  readonly #pending = new Map<number, Promise<void>>()
  #inUse = false
  #written = 0
  #refused = 0
  #closed: Promise<void> | undefined

  constructor(path: string, id: string, parts: Parts<I>) {
    this.path = path
    this.id = id
    this.#parts = parts
  }

  begin(): () => void {
    if (this.#closed !== undefined) throw closedError()
    if (this.#parts.file.failure !== undefined) throw this.#parts.file.failure
    if (this.#inUse) throw new TypeError('a journal serves one batch at a time: open another file for this one')
    this.#inUse = true
    this.#parts.index.restart()
    return () => {
      this.#inUse = false
    }
  }

  enter(item: I): JournalEntry {
    const { digest: digestOf, index } = this.#parts
    const digest = hash('sha256', digestOf === undefined ? itemText(item) : checkedDigest(digestOf(item)), 'buffer').subarray(
      0,
      16
    )
    const first = index.entry(digest, 0)
    const nth = index.occurrence(first)
    const slot = nth === 0 ? first : index.entry(digest, nth)
    const failures = index.failures(slot)
    const text = digest.toString('base64url')
    const entry: Entry = {
      // Another one after a recorded failure: a provider may give the answer it has stored under the first.
      idempotencyKey: `${this.id}-${text}-${nth}${failures === 0 ? '' : `-${failures}`}`,
      recorded: index.isRecorded(slot),
      slot,
      digest: text,
      nth
    }
    return entry
  }

  replay(entry: JournalEntry): Recorded | Promise<Recorded> {
    // A batch that was left may still be writing it.
    const pending = this.#pending.get(entry.slot)
    return pending === undefined ? this.#read(entry.slot) : pending.then(() => this.#read(entry.slot))
  }

  #read(slot: number): Recorded | Promise<Recorded> {
    if (this.#closed !== undefined) throw closedError()
    const { offset, length } = this.#parts.index.locate(slot)
    return this.#parts.file.read(offset, length, recordedOf)
  }

  record(entry: JournalEntry, outcome: Recorded): Promise<void> {
    if (this.#closed !== undefined) {
      this.#refused++
      throw closedError()
    }
    const { digest, nth, slot } = entry as Entry
    const { file, index } = this.#parts
    if (outcome.status === 'rejected' && index.isFulfilled(slot)) return this.#pending.get(slot) ?? Promise.resolve()
    const line = outcomeLine(digest, nth, bodyOf(outcome))
    const { offset, length, safe } = file.append(line)
    index.put(slot, offset, length, outcome.status, 'replay')
    this.#pending.set(slot, safe)
    const forget = (): void => {
      if (this.#pending.get(slot) === safe) this.#pending.delete(slot)
    }
    safe.then(forget, forget)
    this.#written++
    return safe
  }

  stats(): JournalStats {
    const { file, index, tornBytes } = this.#parts
    return {
      recorded: index.recorded,
      written: this.#written,
      syncs: file.syncs,
      bytes: file.bytes,
      refused: this.#refused,
      tornBytes
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#parts.file.close().finally(this.#parts.unlock)
    return this.#closed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

function itemText(item: unknown): string {
  try {
    checkJson(item, 'item')
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error)
    throw new TypeError(`${problem}: a journal tells items apart by their JSON; give openJournal({ digest: (item) => … })`, {
      cause: error
    })
  }
  return JSON.stringify(item)
}

function checkedDigest(digest: unknown): string {
  if (typeof digest === 'string') return digest
  throw new TypeError(`digest must give a string, such as the item's id, not ${digest === null ? 'null' : `a ${typeof digest}`}`)
}

function closedError(): MillraceError {
  return new MillraceError('closed', 'the journal was closed', { details: {} })
}

function bodyOf(outcome: Recorded): string {
  if (outcome.status === 'rejected') return `,"error":${JSON.stringify(plainError(outcome.reason))}`
  if (outcome.value === undefined) return '' // of work for its effect
  checkJson(outcome.value, 'value (a journal keeps JSON only)')
  return `,"value":${JSON.stringify(outcome.value)}`
}

function recordedOf(line: Buffer): Recorded {
  const fields = isSound(line) ? fieldsOf(line) : undefined
  if (fields === undefined)
    throw new MillraceError('protocol', 'a line of the journal has changed since it was opened', {
      details: { reason: 'malformed' }
    })
  if (fields.error !== undefined) return { status: 'rejected', reason: errorOf(fields.error) }
  return { status: 'fulfilled', value: fields.value }
}
