import { abortable, type Json } from '@millrace/core'
import { isJson } from './answer.ts'
import { ask } from './asking.ts'
import type { CacheInner } from './cache.ts'
import { wrapKeyOf } from './key.ts'
import { checkCall, type WrapOptions } from './options.ts'
import { isOutageOfOthers } from './outage.ts'
import { compact, deepFreeze } from './plain.ts'
import { type Door, type Leaving, once, type Question } from './question.ts'

/** What an answer is kept under: JSON of any shape, so that an interface fits as well. */
export type Key = Json | object

/** A computed value on its way to all who asked for it. */
interface Computed {
  readonly value: unknown
}

const computed: Door<Computed> = {
  kind: 'wrap',
  worth(run) {
    const value = run?.items[0]?.value
    return isJson(value) ? { value } : undefined
  },
  itemsOf: (value) => [{ value }],
  weigh: () => 1,
  freeze() {},
  isLast: () => true,
  isContent: () => true,
  isFailure: () => false,
  isOutage: isOutageOfOthers,
  encode: ({ value }) => (isJson(value) ? (value as Json) : undefined),
  decode: (value) => ({ value: deepFreeze(value) })
}

/** The door for any work: see `Cache.wrap`. */
export async function wrapWith<T>(
  self: CacheInner,
  name: Key,
  compute: (signal: AbortSignal) => Promise<T>,
  { signal, tenant, ...asked }: WrapOptions
): Promise<T> {
  signal?.throwIfAborted()
  checkCall(asked)
  if (typeof compute !== 'function') throw new TypeError('wrap takes a function: cache.wrap(key, (signal) => compute())')
  const scope = self.scopeOf({ signal, tenant, cache: asked }, '')
  const key = wrapKeyOf(name as Json, { scope, tenant, secret: self.settings.secret })
  if (asked.bypass === true || self.closing.aborted) {
    self.announce('bypass', { callId: undefined, elapsedMs: 0 })
    return abortable(compute(signal ?? new AbortController().signal), signal)
  }
  const question: Question<Computed> = {
    door: computed,
    key,
    asked,
    callId: undefined,
    signal,
    timeouts: undefined,
    whole: true,
    by: () => '',
    groups: once(() => self.groupsOf(scope, tenant, asked.tags)),
    async *start(upstream) {
      const value = await compute(upstream)
      // A copy, so that what the caller computed with stays its own.
      yield { value: isJson(value) ? compact(value) : value }
    }
  }
  const leaving: Leaving = {}
  const reply = await ask(self, question, leaving)
  if ('value' in reply) return reply.value as T
  const first = await reply.items.next()
  await reply.items.return?.()
  if (first.done === true) throw new TypeError('the computation gave nothing')
  return first.value.value as T
}
