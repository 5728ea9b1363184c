import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, expect, it, test } from 'vitest'
import { type PrometheusServer, probeLeaks, requirePrometheus } from '../src/index.ts'

const probe = probeLeaks()
const folder = await mkdtemp(join(tmpdir(), 'millrace-rules-'))
const goodRules = join(folder, 'good.yml')
const badRules = join(folder, 'bad.yml')
await writeFile(
  goodRules,
  JSON.stringify({
    groups: [
      {
        name: 'shop',
        rules: [
          { record: 'shop:calls', expr: 'sum(calls_total)' },
          { alert: 'Busy', expr: 'calls_total > 100' },
          { alert: 'Idle', expr: 'calls_total < 1' }
        ]
      }
    ]
  })
)
await writeFile(badRules, JSON.stringify({ groups: [{ name: 'shop', rules: [{ alert: 'Broken', expr: 'sum(' }] }] }))

/** What a service shows, to those who know the token. */
const service = createServer(({ url, headers }, response) => {
  if (url !== '/own/metrics' || headers.authorization !== 'Bearer secret') response.writeHead(401).end()
  else response.end('# TYPE calls_total counter\ncalls_total{model="a"} 142\ncalls_total{model="b"} 1\nendless +Inf\n')
})
await new Promise<void>((resolve) => service.listen(0, '127.0.0.1', resolve))
const target = `127.0.0.1:${(service.address() as AddressInfo).port}`
const { server, skip } = await requirePrometheus({
  targets: [target],
  path: '/own/metrics',
  bearerToken: 'secret',
  ruleFiles: [goodRules]
})
const prometheus = server as PrometheusServer

beforeAll(async () => {
  if (skip !== undefined) return
  while ((await prometheus.query('calls_total')).length < 2) await delay(50)
})
afterAll(() => rm(folder, { recursive: true, force: true }))

test.skipIf(skip)('a Prometheus scrapes a target with a path and a token, and answers queries about it', async () => {
  expect((await fetch(`${prometheus.url}/-/ready`)).status).toBe(200)
  const samples = await prometheus.query('calls_total')
  expect(samples.find(({ metric }) => metric.model === 'a')).toMatchObject({
    metric: { __name__: 'calls_total', instance: target, job: 'test' },
    value: 142
  })
  expect(await prometheus.query('sum by (model) (calls_total{model="b"})')).toEqual([{ metric: { model: 'b' }, value: 1 }])
  expect(await prometheus.query('count(calls_total) * 2')).toEqual([{ metric: {}, value: 4 }])
  expect(await prometheus.query('scalar(endless)')).toEqual([{ metric: {}, value: Number.POSITIVE_INFINITY }])
  expect(await prometheus.query('nothing_of_this_name')).toEqual([])
  expect(await prometheus.targets()).toEqual([{ url: `http://${target}/own/metrics`, health: 'up', lastError: '' }])
})

test.skipIf(skip)('a query that is wrong, or gives no single number a series, is an error', async () => {
  await expect(prometheus.query('sum(')).rejects.toThrow(/Prometheus: .*parse error/)
  await expect(prometheus.query('calls_total[1m]')).rejects.toThrow(/gives a matrix, not one number a series/)
})

test.skipIf(skip)('rules are evaluated, and an alert fires when its condition holds', async () => {
  await expect.poll(() => prometheus.query('shop:calls'), { timeout: 15_000 }).toMatchObject([{ value: 143 }])
  const stateOf = async (name: string): Promise<unknown> => (await prometheus.rules()).find((rule) => rule.name === name)
  await expect.poll(() => stateOf('Busy'), { timeout: 15_000 }).toMatchObject({ state: 'firing', health: 'ok' })
  expect(await stateOf('Idle')).toEqual({
    group: 'shop',
    name: 'Idle',
    type: 'alerting',
    query: 'calls_total < 1',
    health: 'ok',
    lastError: '',
    state: 'inactive'
  })
})

test.skipIf(skip)('promtool checks a file of rules', async () => {
  expect(await prometheus.checkRules(goodRules)).toMatch(/SUCCESS: 3 rules found/)
  await expect(prometheus.checkRules(badRules)).rejects.toThrow(/bad\.yml: .*could not parse expression/)
  await expect(prometheus.checkRules(join(folder, 'none.yml'))).rejects.toThrow(/none\.yml.*does not exist/)
})

test.skipIf(skip)('promtool runs the unit tests of a file of rules, and says what differs', async () => {
  const file = join(folder, 'tests.yml')
  const write = (value: number): Promise<void> =>
    writeFile(
      file,
      JSON.stringify({
        rule_files: ['good.yml'],
        tests: [
          {
            interval: '1m',
            input_series: [{ series: 'calls_total{model="a"}', values: '0+10x5' }],
            promql_expr_test: [{ expr: 'shop:calls', eval_time: '5m', exp_samples: [{ labels: 'shop:calls', value }] }]
          }
        ]
      })
    )
  await write(50)
  expect(await prometheus.testRules(file)).toContain('SUCCESS')
  await write(40)
  await expect(prometheus.testRules(file)).rejects.toThrow(/exp: .* 4E\+01\s+got: .* 5E\+01/)
})

test.skipIf(skip)('a broken start is an error with what Prometheus wrote, not a skip', async () => {
  await expect(requirePrometheus({ ruleFiles: [badRules] })).rejects.toThrow(
    /prometheus did not start: .*could not parse expression/s
  )
})

test.skipIf(skip)('a stopped or killed Prometheus leaves no process and nothing else', async () => {
  await using other = (await requirePrometheus()).server as PrometheusServer
  await other.kill()
  expect(() => process.kill(other.pid, 0)).toThrow(/ESRCH/)
  await prometheus.stop()
  await prometheus.stop()
  expect(() => process.kill(prometheus.pid, 0)).toThrow(/ESRCH/)
  await new Promise((resolve) => service.close(resolve))
  await probe.check()
})

it('says how to get a Prometheus where PROMETHEUS does not run, and skips under CI too', async () => {
  const { PROMETHEUS, CI } = process.env
  try {
    Object.assign(process.env, { PROMETHEUS: '/nowhere/prometheus', CI: 'true' })
    expect((await requirePrometheus()).skip).toMatch(/need Prometheus are skipped: PROMETHEUS is .* apt-get install prometheus/)
  } finally {
    Object.assign(process.env, { PROMETHEUS, CI })
    if (PROMETHEUS === undefined) delete process.env.PROMETHEUS
    if (CI === undefined) delete process.env.CI
  }
})

it('refuses an interval that is none', async () => {
  await expect(requirePrometheus({ scrapeIntervalMs: 0.5 })).rejects.toThrow(TypeError)
})
