import type { OtlpSpan } from './otlp-data.ts'
import { Malformed } from './otlp-request.ts'

export interface SpanIds {
  /**
   * The ids of the spans, for `take`.
   *
   * @throws {Malformed} for a span that is there twice or was taken before
   */
  check(spans: readonly OtlpSpan[]): ReadonlySet<string>
  take(ids: ReadonlySet<string>): void
}

/** Remembers which spans were taken: the last 100,000 (about 10 MB) unless told, even when their request has been dropped. */
export function createSpanIds(limit: number = 100_000): SpanIds {
  const taken = new Set<string>()
  return {
    check(spans) {
      const ids = new Set<string>()
      for (const { traceId, spanId, name } of spans) {
        // Only within its trace is a span's id unique.
        const id = traceId + spanId
        if (taken.has(id) || ids.has(id)) throw new Malformed(400, `the span ${spanId} ("${name}") was sent twice`)
        ids.add(id)
      }
      return ids
    },
    take(ids) {
      for (const id of ids) taken.add(id)
      for (const oldest of taken) {
        if (taken.size <= limit) return
        taken.delete(oldest)
      }
    }
  }
}
