import type { CacheInner } from './cache.ts'
import type { Question } from './question.ts'
import { type SharedFlight, takeOff } from './taking-off.ts'

/** After a refresh that failed, the next one waits so long. */
const refreshPauseMs = 1000
/** A refresh that nobody waits for ends by itself. */
const refreshMs = 600_000

/** One refresh a key at a time, in the background; across processes too, where they share calls. */
export function refresh<T>(self: CacheInner, question: Question<T>): void {
  const { key, asked } = question
  const { refreshing, flights, settings, counts } = self
  const at = settings.now()
  // What would not be kept is not fetched.
  if (asked.noStore === true || asked.ttlMs === 0 || self.closing.aborted) return
  if (flights.has(key) || at < (refreshing.get(key) ?? 0)) return
  if (refreshing.size >= maxRemembered) for (const [each, until] of refreshing) if (until <= at) refreshing.delete(each)
  refreshing.set(key, Number.POSITIVE_INFINITY)
  question.groups()
  self.track(
    fetchAnew(self, question).then((outcome) => {
      if (outcome === 'kept') {
        counts.refreshes++
        refreshing.delete(key)
        return
      }
      if (outcome !== 'elsewhere') counts.refreshErrors++
      refreshing.set(key, settings.now() + refreshPauseMs)
    })
  )
}

/** Keys whose last refresh brought nothing; past so many, those whose pause is over are forgotten. */
const maxRemembered = 1000

/** Never rejects: the stale answer serves on, and the failure is counted. */
async function fetchAnew<T>(self: CacheInner, question: Question<T>): Promise<SharedFlight<T>['settled']> {
  const { tiers, settings, flights } = self
  const { door, key, groups } = question
  const found = tiers.store === undefined ? undefined : await tiers.findStored(door.kind, key, groups())
  if (found !== undefined && settings.now() - found.storedAt < found.ttlMs) return 'elsewhere'
  if (self.closing.aborted) return 'elsewhere'
  const flight = takeOff(self, question, 'background')
  const asker = flight.join({ signal: self.closing, timeouts: { totalMs: refreshMs } })
  void flight.known.then(() => {
    // Where another process makes the call, there is nothing to join here.
    if (flight.role === 'leads' && flight.settled === undefined && !flights.has(key)) flights.set(key, flight)
  })
  try {
    while ((await asker.items.nextBatch()) !== undefined);
    return flight.settled
  } catch {
    return 'failed'
  }
}
