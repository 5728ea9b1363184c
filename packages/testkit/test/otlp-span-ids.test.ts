import { expect, it } from 'vitest'
import type { OtlpSpan } from '../src/otlp-data.ts'
import { createSpanIds } from '../src/otlp-span-ids.ts'

const span = (spanId: string): OtlpSpan => ({ traceId: 't', spanId, name: 'x' }) as OtlpSpan

it('remembers the last spans that were taken and no more', () => {
  const ids = createSpanIds(3)
  ids.take(ids.check([span('a'), span('b'), span('c'), span('d')]))
  expect(() => ids.check([span('a')])).not.toThrow()
  for (const id of ['b', 'c', 'd']) expect(() => ids.check([span(id)])).toThrow(`the span ${id} ("x") was sent twice`)
})
