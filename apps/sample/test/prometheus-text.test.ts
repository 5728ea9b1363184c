import { startTelemetry } from '@millrace/telemetry/node'
import { seededRandom } from '@millrace/testkit'
import { metrics } from '@opentelemetry/api'
import { expect, test } from 'vitest'
import { histogramOf, readSamples } from '../src/prometheus-text.ts'

test('samples have name, labels and value; comments and what is none are passed over', () => {
  const text = [
    '# HELP up Whether it is up',
    'up 1',
    'up{job="a b",path="C:\\\\x \\"y\\"\\n{z},="} 2.5e3 1700000000000',
    'bucket{le="+Inf",} +Inf',
    'nothing NaN',
    'not a sample',
    'half{a="1"',
    ''
  ].join('\n')
  expect([...readSamples(text)]).toEqual([
    { name: 'up', labels: {}, value: 1 },
    { name: 'up', labels: { job: 'a b', path: 'C:\\x "y"\n{z},=' }, value: 2500 },
    { name: 'bucket', labels: { le: '+Inf' }, value: Number.POSITIVE_INFINITY },
    { name: 'nothing', labels: {}, value: Number.NaN }
  ])
})

test('a line that never ends in a label is refused in no time', () => {
  const long = `a{${'b="\\\\",'.repeat(20_000)}`
  const startedAt = performance.now()
  expect([...readSamples(`${long}\nup 1`)].at(-1)).toEqual({ name: 'up', labels: {}, value: 1 })
  expect(performance.now() - startedAt).toBeLessThan(1000)
})

test('a histogram is the sum of its series, each bucket for itself', () => {
  const series = (labels: string, counts: readonly number[], sum: number): string =>
    [
      ...['0.1', '1', '+Inf'].map((le, at) => `t_bucket{${labels},le="${le}"} ${counts[at]}`),
      `t_count{${labels}} ${counts.at(-1)}`,
      `t_sum{${labels}} ${sum}`
    ].join('\n')
  const text = `${series('m="a"', [1, 3, 6], 5)}\n${series('m="b"', [0, 10, 10], 4)}\nt_other_bucket{le="9"} 7`
  expect(histogramOf([...readSamples(text)], 't')).toEqual({ bounds: [0.1, 1], counts: [1, 12, 3], sum: 9 })
  expect(histogramOf([], 't')).toEqual({ bounds: [], counts: [], sum: 0 })
  const other = `${text}\nt_bucket{m="c",le="5"} 1\nt_bucket{m="c",le="+Inf"} 1`
  expect(() => histogramOf([...readSamples(other)], 't')).toThrow('the series of t have different bounds')
})

test('what the SDK writes is read back: any label, and as many values as were recorded (seed 7)', async () => {
  await using telemetry = await startTelemetry({ metrics: ['prometheus'] })
  const random = seededRandom(7)
  const pieces = ['"', '\\', '\n', '{', '}', ',', '=', ' ', 'n', 'ü', '+Inf', '#']
  const texts = Array.from({ length: 60 }, () =>
    Array.from({ length: 8 }, () => pieces[Math.floor(random() * pieces.length)]).join('')
  )
  const meter = metrics.getMeterProvider().getMeter('test')
  const histogram = meter.createHistogram('test.odd', { unit: 's', advice: { explicitBucketBoundaries: [0.01, 0.1, 1] } })
  for (const text of texts) histogram.record(random() * 2, { text })
  const samples = [...readSamples((await telemetry.prometheus()).body)]
  const labels = samples.filter(({ name }) => name === 'test_odd_count').map((sample) => sample.labels.text)
  expect(new Set(labels)).toEqual(new Set(texts))
  const { bounds, counts } = histogramOf(samples, 'test_odd')
  expect(bounds).toEqual([0.01, 0.1, 1])
  expect(counts.reduce((sum, count) => sum + count, 0)).toBe(texts.length)
})
