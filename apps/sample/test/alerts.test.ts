import { type PrometheusServer, requirePrometheus } from '@millrace/testkit'
import { afterAll, describe, expect, test } from 'vitest'
import { rulesFile } from './dashboard-file.ts'
import { type Fires, type RuleCase, testRules } from './rule-tests.ts'

const { server, skip } = await requirePrometheus()
afterAll(() => server?.stop())

const none = (...times: string[]): Fires[] => times.map((at) => ({ at, fires: [] }))
const only = (name: string, ...times: string[]): Fires[] => times.map((at) => ({ at, fires: [name] }))

const calls = (labels: string): string => `gen_ai_client_operation_duration_count{job="a", ${labels}}`
const success = calls('millrace_outcome="success"')
const failed = (type: string): string => calls(`millrace_outcome="error", error_type="${type}"`)

const breaker = (state: string): string =>
  `millrace_breaker_state{job="a", server_address="llm", millrace_breaker_state="${state}"}`
const opened = 'millrace_breaker_opened_total{job="a", server_address="llm"}'

const queued = (instance: string): string => `millrace_pool_queued{job="a", instance="${instance}", server_address="llm"}`

/** A histogram's series, of the counts in the three buckets about 10 s, at each of 40 scrapes. */
function firstChunks(
  until5: number,
  until10: number,
  until20: number,
  labels = 'millrace_cache_state="miss"'
): RuleCase['series'] {
  const name = 'gen_ai_client_operation_time_to_first_chunk'
  const all = `job="a", gen_ai_request_model="m", ${labels}`
  const grow = (count: number): string => `0+${count}x40`
  const total = until5 + until10 + until20
  return {
    [`${name}_bucket{${all}, le="5.12"}`]: grow(until5),
    [`${name}_bucket{${all}, le="10.24"}`]: grow(until5 + until10),
    [`${name}_bucket{${all}, le="20.48"}`]: grow(total),
    [`${name}_bucket{${all}, le="+Inf"}`]: grow(total),
    [`${name}_count{${all}}`]: grow(total)
  }
}

const lookups = (state: string): string => `millrace_cache_lookups_total{job="a", millrace_cache_state="${state}"}`
const spent = (model: string): string => `millrace_cost_spent_total{job="a", gen_ai_request_model="${model}"}`
const spans = (fate: string): string => `millrace_telemetry_spans_total{job="a", millrace_telemetry_fate="${fate}"}`
const [dropped, failures] = ['millrace_telemetry_dropped_total{job="a"}', 'millrace_telemetry_failures_total{job="a"}']
const denied = 'millrace_transport_retries_denied_total{job="a"}'

const cases: Readonly<Record<string, Readonly<Record<string, RuleCase>>>> = {
  MillraceErrorRatioHigh: {
    'fires after 5 minutes of 10 % errors, whatever their types, and clears': {
      series: { [success]: '0+90x40', [failed('timeout')]: '0+5x20 100+0x20', [failed('overloaded')]: '0+5x20 100+0x20' },
      expect: [...none('5m'), ...only('MillraceErrorRatioHigh', '7m', '20m'), ...none('27m')]
    },
    'is quiet at 4 %': { series: { [success]: '0+96x20', [failed('timeout')]: '0+4x20' }, expect: none('10m', '20m') },
    'is quiet about mistakes of the callers, and does not count these calls': {
      series: {
        [success]: '0+10x20',
        [failed('invalid-request')]: '0+80x20',
        [failed('context-overflow')]: '0+80x20',
        [failed('content-filtered')]: '0+80x20'
      },
      expect: none('10m', '20m')
    },
    'fires although most calls are mistakes of the callers': {
      series: { [success]: '0+80x20', [failed('invalid-request')]: '0+900x20', [failed('network')]: '0+20x20' },
      expect: only('MillraceErrorRatioHigh', '15m')
    },
    'is quiet with less than 3 calls a minute, and without any': {
      series: { [success]: '0+0x20', [failed('timeout')]: '0+2x20' },
      expect: none('10m', '20m')
    },
    'fires when no call ever succeeds, and across a restart': {
      series: { [failed('network')]: '_x3 10+10x10 5+10x10' },
      expect: only('MillraceErrorRatioHigh', '13m', '20m')
    },
    'tells jobs apart': {
      series: { [success]: '0+990x20', [failed('timeout').replace('"a"', '"b"')]: '0+10x20' },
      expect: [{ at: '15m', expr: 'count by (job) (ALERTS{alertstate="firing"})', gives: { '{job="b"}': 1 } }]
    }
  },

  MillraceBreakerOpen: {
    'fires while probes fail, whichever state a scrape sees, and is gone with the first success': {
      series: {
        [breaker('closed')]: '1 0x10 1x10',
        [breaker('open')]: '0 1 0 1 0 1 0 1 0 1 0 0x10',
        [breaker('half-open')]: '0 0 1 0 1 0 1 0 1 0 1 0x10',
        [opened]: '0+4x10 40+0x10'
      },
      expect: [...none('1m'), ...only('MillraceBreakerOpen', '3m', '6m', '10m'), ...none('12m')]
    },
    'clears where nobody asks any more: it stays half-open and no probe has failed': {
      series: {
        [breaker('closed')]: '1 0x60',
        [breaker('open')]: '0 1 0x60',
        [breaker('half-open')]: '0 0 1x60',
        [opened]: '0 1x60'
      },
      expect: [...only('MillraceBreakerOpen', '3m'), ...none('8m', '60m')]
    },
    'is quiet about openings that probes have closed': {
      series: { [breaker('closed')]: '1x20', [breaker('open')]: '0x20', [breaker('half-open')]: '0x20', [opened]: '0+1x20' },
      expect: none('10m', '20m')
    }
  },

  MillraceQueueLong: {
    'fires while a queue that no longer grows is there, and not after': {
      series: { [queued('1')]: '0 0 250 500 750 1000x40 0x10' },
      expect: [...none('5m', '8m'), ...only('MillraceQueueLong', '11m', '20m', '30m', '44m'), ...none('47m')]
    },
    'adds up the processes': {
      series: { [queued('1')]: '6x20', [queued('2')]: '6x20' },
      expect: only('MillraceQueueLong', '15m')
    },
    'is quiet about bursts that drain, and about a short queue': {
      series: { [queued('1')]: '0 500 0 500 0 500 0 500 0 500 0 500 0 500 0 500', [queued('2')]: '10x20' },
      expect: none('5m', '10m', '15m')
    }
  },

  MillraceRetriesDenied: {
    'fires when some are denied, and clears': {
      series: { [denied]: '0 0 0 7x20' },
      expect: [...none('2m'), ...only('MillraceRetriesDenied', '5m', '7m'), ...none('9m')]
    },
    'fires when the series is born with them': {
      series: { [denied]: '_x10 7x30' },
      expect: [...only('MillraceRetriesDenied', '12m'), ...none('18m')]
    },
    'is quiet at a constant count, at a birth with 0, and after a restart': {
      series: { [denied]: '7x10 0x10', [denied.replace('"a"', '"b"')]: '_x5 0x15' },
      expect: none('8m', '12m', '20m')
    }
  },

  MillraceFirstChunkSlow: {
    'fires when 2 % of the streams wait for more than 10.24 s': {
      series: firstChunks(97, 1, 2),
      expect: [...none('5m'), ...only('MillraceFirstChunkSlow', '25m', '40m')]
    },
    'is quiet when a fifth of them takes 5.2 s': { series: firstChunks(78, 22, 0), expect: none('15m', '25m', '40m') },
    'is quiet when one in 200 waits that long': { series: firstChunks(199, 0, 1), expect: none('25m', '40m') },
    'is quiet about answers of the cache': {
      series: { ...firstChunks(100, 0, 0), ...firstChunks(0, 0, 10, 'millrace_cache_state="joined"') },
      expect: none('25m', '40m')
    },
    'is quiet with 2 streams a minute': { series: firstChunks(0, 0, 2), expect: none('25m', '40m') }
  },

  MillraceHitRateCollapsed: {
    'fires when a day of 50 % becomes 10 %, and while the day is better': {
      every: '5m',
      series: { [lookups('hit')]: '0+50x100 5010+10x20', [lookups('miss')]: '0+50x100 5090+90x20' },
      expect: [...none('490m'), ...only('MillraceHitRateCollapsed', '540m', '600m')]
    },
    'is quiet at 30 %': {
      every: '5m',
      series: { [lookups('hit')]: '0x120', [lookups('joined')]: '0+50x100 5030+30x20', [lookups('miss')]: '0+50x100 5070+70x20' },
      expect: none('540m', '600m')
    },
    'is quiet without traffic or with little, when calls go by the cache, and where the cache never helped': {
      every: '5m',
      series: {
        [lookups('hit')]: '0+50x100 5000x20',
        [lookups('miss')]: '0+50x100 5000x20',
        [lookups('bypass')]: '0x100 0+500x20',
        [lookups('hit').replace('"a"', '"b"')]: '0+5x100 500x20',
        [lookups('miss').replace('"a"', '"b"')]: '0+95x120',
        // Less than 3 questions a minute.
        [lookups('hit').replace('"a"', '"c"')]: '0+5x100 500x20',
        [lookups('miss').replace('"a"', '"c"')]: '0+5x100 510+10x20'
      },
      expect: none('540m', '600m')
    }
  },

  MillraceSpendHigh: {
    'fires at 5 USD an hour over all models, and an hour after it stopped no more': {
      series: { [spent('x')]: '0+0.05x120 6x120', [spent('y')]: '0+0.034x120 4.08x120' },
      expect: [...only('MillraceSpendHigh', '100m', '120m'), ...none('190m')]
    },
    'fires when that money is what a series is born with': {
      series: { [spent('x')]: '_x30 5x120' },
      expect: [...none('40m'), ...only('MillraceSpendHigh', '50m', '85m'), ...none('95m')]
    },
    'is quiet at 4 USD an hour, and does not take a restart or a total for spending': {
      series: { [spent('x')]: '900+0.03x120 0+0.03x120', [spent('y')]: '100+0.03x240' },
      expect: none('90m', '130m', '200m')
    }
  },

  MillraceTelemetryDropping: {
    'fires for spans of calls given up': {
      series: { [dropped]: '0 0 0 2x40', [failures]: '0x40' },
      expect: [...none('2m'), ...only('MillraceTelemetryDropping', '5m', '15m'), ...none('20m')]
    },
    'fires for exceptions, without a series of spans': {
      series: { [failures]: '0 0 0 2x40' },
      expect: only('MillraceTelemetryDropping', '5m')
    },
    'fires for dropped spans that a series is born with': {
      series: { [spans('dropped')]: '_x10 30x60', [spans('exported')]: '0+5x70' },
      expect: [...none('9m'), ...only('MillraceTelemetryDropping', '12m', '20m'), ...none('30m')]
    },
    'is quiet about spans that arrive, are sampled out, or were dropped long ago': {
      series: {
        [spans('exported')]: '_x5 9+9x60',
        [spans('sampled-out')]: '_x5 9+9x60',
        [dropped]: '3x65',
        [failures]: '_x5 0x60'
      },
      // What is there with the first scrape of all is news.
      expect: none('30m', '65m')
    }
  }
}

describe.for(Object.entries(cases))('%s', ([, its]) => {
  test.skipIf(skip !== undefined).for(Object.entries(its))('%s', async ([title, one]) => {
    expect(await testRules(server as PrometheusServer, rulesFile, { [title]: one })).toContain('SUCCESS')
  })
})
