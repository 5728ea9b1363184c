import { onAbort } from '@millrace/core'
import type { CacheInner } from './cache.ts'
import type { Held } from './memory.ts'
import { type KeptReply, type Leaving, maxAgeOf, type Question, type Reply } from './question.ts'
import { refresh } from './refreshing.ts'
import { type Asking, run, told } from './running.ts'

/**
 * Answers from memory in the same turn; else by the store, by a call under way, or by a new one. Every way counts once.
 *
 * @throws whatever the upstream throws before the answer is known; `signal.reason`
 */
export function ask<T>(self: CacheInner, question: Question<T>, leaving: Leaving): Reply<T> | Promise<Reply<T>> {
  const startedAt = performance.now()
  const { tiers, settings } = self
  const { key, asked } = question
  const again = (): Reply<T> | Promise<Reply<T>> => ask(self, question, leaving)
  if (asked.refresh === true) return run(self, question, { leaving, startedAt, again })

  const held = tiers.peek(key)
  const kept = held === undefined ? undefined : serve(self, question, held)
  if (kept !== undefined) return told(self, question, kept, startedAt)
  const refusal = settings.negativeTtlMs > 0 ? tiers.peekRefusal(key, question.by()) : undefined
  const refusedMs = refusal === undefined ? Number.POSITIVE_INFINITY : settings.now() - refusal.storedAt
  if (refusal !== undefined && refusedMs <= maxAgeOf(question)) {
    return told(self, question, { state: 'hit', value: refusal.value, ageMs: refusedMs, refusal: true }, startedAt)
  }
  // In this turn, for it may also fix what the caller could change while the store is asked.
  question.groups()
  if (tiers.store !== undefined) return askStore(self, question, { leaving, startedAt, again })
  return run(self, question, { leaving, startedAt, again, stale: fallback(self, question, held) })
}

function askStore<T>(self: CacheInner, question: Question<T>, asking: Asking<T>): Promise<Reply<T>> {
  const { tiers } = self
  const { door, key, signal, groups } = question
  function answer(found: Held | undefined, said: boolean): Reply<T> | Promise<Reply<T>> {
    signal?.throwIfAborted()
    // Another asker's answer may have come into memory meanwhile.
    const held = found ?? tiers.peek(key)
    const kept = held === undefined ? undefined : serve(self, question, held)
    if (kept !== undefined) return told(self, question, kept, asking.startedAt)
    // A store that did not answer is not waited for a second time.
    const purpose = said ? 'waited for' : 'without the store'
    return run(self, question, { ...asking, stale: fallback(self, question, held), purpose })
  }
  return new Promise((resolve, reject) => {
    const off = onAbort(signal, reject)
    tiers.find(door.kind, key, groups(), (found, said) => {
      off()
      try {
        resolve(answer(found, said))
      } catch (error) {
        reject(error)
      }
    })
  })
}

/** A hit, or a stale answer that is being refreshed; undefined where the caller must wait for a new one. */
function serve<T>(self: CacheInner, question: Question<T>, held: Held): KeptReply | undefined {
  const { now, staleWhileRevalidateMs } = self.settings
  const at = now()
  const ageMs = Math.max(0, at - held.storedAt)
  if (ageMs > maxAgeOf(question)) return undefined
  if (ageMs < held.ttlMs) return { state: 'hit', value: held.value, ageMs, refusal: false }
  if (ageMs >= held.ttlMs + staleWhileRevalidateMs) return undefined
  refresh(self, question)
  return { state: 'stale', value: held.value, ageMs, refusal: false }
}

/** What is given where the upstream fails: an answer past its time. */
function fallback<T>(self: CacheInner, question: Question<T>, held: Held | undefined): Held | undefined {
  if (held === undefined) return undefined
  const ageMs = self.settings.now() - held.storedAt
  const usable = ageMs < held.ttlMs + self.settings.staleIfErrorMs && ageMs <= maxAgeOf(question)
  return usable ? held : undefined
}
