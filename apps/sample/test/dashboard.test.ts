import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { AdapterStats } from '@millrace/adapter'
import { type PrometheusServer, requirePrometheus } from '@millrace/testkit'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { dashboard, filled, panels, rulesFile } from './dashboard-file.ts'
import { askThrice, drive, type Rig, type Series, startRig } from './metrics-rig.ts'
import { namesIn } from './promql.ts'

const seed = 11
const rulesText = await readFile(rulesFile, 'utf8')
const queries = panels.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ title, expr })))

interface Alert {
  readonly name: string
  readonly text: string
  readonly expr: string
}

/** The rules by their lines; that they are YAML and PromQL is for Prometheus to say. */
const alerts: readonly Alert[] = rulesText
  .split(/^ {6}- alert: /m)
  .slice(1)
  .map((text) => ({
    name: text.slice(0, text.indexOf('\n')),
    text,
    expr: /^ {8}expr: \|\n([^]*?)^ {8}\w/m.exec(text)?.[1] ?? ''
  }))

/** What Prometheus adds to each series it scrapes, and `le` of a histogram's buckets. */
const added = new Set(['job', 'instance', 'le'])

/** A gateway that has done everything the dashboard shows, and is well again. */
async function startBusyRig(): Promise<Rig> {
  const rig = await startRig({
    transport: {
      retry: { baseMs: 1, budgetReserve: 4 },
      breaker: { minimumRequests: 20, openMs: 200 },
      hedge: { minSamples: 5, maxExtra: 1, minDelayMs: 20 }
    },
    cache: { ttlMs: 1000, staleWhileRevalidateMs: 60_000, maxEntries: 8 },
    limited: true
  })
  await drive(rig, seed, 60)
  await askThrice(rig, 1000)
  await rig.ask('late answer', { stream: true })
  await rig.ask('without a price', { model: 'nobodys-model' })
  // Nobody listens there: an attempt without a status.
  await rig.transport.send({ method: 'GET', url: 'http://127.0.0.1:1/', headers: {} }).catch(() => {})
  rig.breakProvider('broken')
  for (let call = 0; call < 80 && !isOpen(rig); call++) await rig.ask(`broken ${call}`)
  await rig.ask('refused by the breaker')
  rig.breakProvider('well')
  await delay(250)
  await rig.ask('well again')
  return rig
}

function isOpen(rig: Rig): boolean {
  return Object.values(rig.adapter.stats().origins).some(({ breaker }) => breaker === 'open')
}

describe('the files', () => {
  test('every panel has a title, a unit, a description of a cure, and the data source of the variable', () => {
    expect(panels.length).toBeGreaterThan(30)
    for (const { title, description = '', fieldConfig, targets = [], datasource } of panels) {
      expect(title).not.toBe('')
      expect(fieldConfig?.defaults.unit, title).toBeTruthy()
      expect(description.length, title).toBeGreaterThan(60)
      expect(description, title).not.toContain('\n')
      expect(datasource, title).toEqual({ type: 'prometheus', uid: '${datasource}' })
      expect(targets.length, title).toBeGreaterThan(0)
    }
    expect(dashboard.uid).toBeUndefined()
    expect(dashboard.templating.list.map(({ name, type }) => [name, type])).toContainEqual(['datasource', 'datasource'])
  })

  test('no two panels share an id, a title or a place', () => {
    for (const key of ['id', 'title'] as const)
      expect(new Set(dashboard.panels.map((panel) => panel[key])).size).toBe(dashboard.panels.length)
    const taken = new Set<string>()
    for (const { title, gridPos } of dashboard.panels) {
      expect(gridPos.x + gridPos.w, title).toBeLessThanOrEqual(24)
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
          expect(taken.has(`${x} ${y}`), title).toBe(false)
          taken.add(`${x} ${y}`)
        }
      }
    }
  })

  test('every alert has a wait, a severity, a summary and a description of a cure', () => {
    expect(alerts.map(({ name }) => name)).toEqual([
      'MillraceErrorRatioHigh',
      'MillraceBreakerOpen',
      'MillraceQueueLong',
      'MillraceRetriesDenied',
      'MillraceFirstChunkSlow',
      'MillraceHitRateCollapsed',
      'MillraceSpendHigh',
      'MillraceTelemetryDropping'
    ])
    for (const { name, text, expr } of alerts) {
      expect(expr, name).not.toBe('')
      expect(text, name).toMatch(/^ {8}for: \d+m$/m)
      expect(text, name).toMatch(/^ {10}severity: (critical|warning)$/m)
      expect(text, name).toMatch(/^ {10}summary: (["']).+\1$/m)
      expect(text, name).toMatch(/^ {10}description: >-\n {12}\S/m)
      // A ratio without traffic is no number: what is divided by must be above something.
      for (const [, after = ''] of expr.matchAll(/\/\s*([^]{1,400})/g)) expect(after, name).toMatch(/^\([^]*\) > [\d.]+\s*\)/)
    }
    for (const line of rulesText.split('\n')) expect(line).toMatch(/^(?: {2})*(?:\S.*)?$/)
  })

  test('every ratio of the dashboard is asked only where there is something to divide by', () => {
    for (const { title, expr } of queries) {
      for (const [, after = ''] of expr.matchAll(/\/ (.*)/g)) expect(after, title).toMatch(/> 0\)$/)
    }
  })
})

describe('a gateway that has done a mix of everything', () => {
  let rig: Rig
  let stats: AdapterStats
  let series: readonly Series[]
  beforeAll(async () => {
    rig = await startBusyRig()
    ;({ stats, series } = await rig.read())
  })
  afterAll(() => rig[Symbol.asyncDispose]())

  test('has each series that the dashboard and the alerts name, with each label', () => {
    const labelsOf = new Map<string, Set<string>>()
    for (const { name, labels } of series) {
      const known = labelsOf.get(name) ?? new Set(added)
      for (const label of Object.keys(labels)) known.add(label)
      labelsOf.set(name, known)
    }
    // Made by Prometheus itself for each target.
    labelsOf.set('up', new Set(added))
    const missing: string[] = []
    const variables = dashboard.templating.list.map(({ name, definition = '' }) => ({ title: name, expr: definition }))
    const all = [...queries, ...variables, ...alerts.map(({ name, expr }) => ({ title: name, expr }))]
    for (const { title, expr } of all) {
      const { metrics, labels } = namesIn(expr)
      const named = expr.startsWith('label_values') ? metrics.slice(0, 1) : metrics
      for (const metric of named) if (!labelsOf.has(metric)) missing.push(`${title}: ${metric}`)
      for (const [metric, label] of labels) {
        const from = metric === undefined ? named : [metric]
        if (!from.some((name) => labelsOf.get(name)?.has(label))) missing.push(`${title}: ${label} of ${from.join(', ')}`)
      }
    }
    expect(missing).toEqual([])
  })

  test('did everything, so that no series is there by its name only', () => {
    const { cache, retries, retriesDenied, hedges, origins } = stats
    const [origin] = Object.values(origins)
    const { stale, joined, evictions, refreshes } = cache ?? {}
    const counts = { stale, joined, evictions, refreshes, retries, retriesDenied, hedges }
    for (const [name, count] of Object.entries(counts)) expect(count, name).toBeGreaterThan(0)
    expect(origin?.breakerOpened).toBeGreaterThan(0)
    expect(origin?.breakerRejected).toBeGreaterThan(0)
  })
})

describe('a real Prometheus', async () => {
  const { server, skip } = await requirePrometheus()
  await server?.stop()

  test.skipIf(skip !== undefined)(
    'answers every query of the dashboard, and finds the alerts in order',
    async () => {
      await using rig = await startBusyRig()
      await using prometheus = await scraping(rig, [rulesFile])
      // Rates need growth between two scrapes.
      await delay(500)
      await drive(rig, seed + 1, 60)
      await askThrice(rig, 1000)
      await rig.read()
      await delay(500)
      const empty: string[] = []
      for (const { title, expr } of queries) if ((await prometheus.query(filled(expr))).length === 0) empty.push(title)
      expect(empty).toEqual([])
      expect(await prometheus.checkRules(rulesFile)).toContain(`${alerts.length} rules found`)
      expect((await prometheus.rules()).map(({ name, health, lastError }) => [name, health, lastError])).toEqual(
        alerts.map(({ name }) => [name, 'ok', ''])
      )
    },
    60_000
  )

  test.skipIf(skip !== undefined)(
    'fires nothing while all is well, and tells of a provider that breaks',
    async () => {
      await using rig = await startRig({ cache: { ttlMs: 60_000 } })
      // The same rules, without their wait.
      const hasty = join(await mkdtemp(join(tmpdir(), 'millrace-rules-')), 'hasty.yaml')
      onTestFinished(() => rm(dirname(hasty), { recursive: true }))
      await writeFile(hasty, rulesText.replaceAll(/for: \d+m$/gm, 'for: 0s'))
      await using prometheus = await scraping(rig, [hasty])
      const firing = async (): Promise<string[]> =>
        (await prometheus.rules()).filter(({ state }) => state === 'firing').map(({ name }) => name)
      for (let round = 0; round < 4; round++) {
        await Promise.all(
          Array.from({ length: 10 }, (_, call) => rig.ask(`well ${round} ${call % 7}`, { stream: call % 2 === 0 }))
        )
        await delay(300)
      }
      const rules = await prometheus.rules()
      expect(rules.map(({ health, state }) => `${health} ${state}`)).toEqual(alerts.map(() => 'ok inactive'))

      rig.breakProvider('broken')
      await expect
        .poll(
          async () => {
            await Promise.all(Array.from({ length: 10 }, (_, call) => rig.ask(`broken ${Date.now()} ${call}`)))
            return firing()
          },
          { timeout: 15_000, interval: 200 }
        )
        .toEqual(expect.arrayContaining(['MillraceErrorRatioHigh', 'MillraceBreakerOpen', 'MillraceRetriesDenied']))
      expect(await firing()).not.toContain('MillraceTelemetryDropping')
    },
    60_000
  )
})

/** Scrapes the rig five times a second; resolves after the first scrapes. */
async function scraping(rig: Rig, ruleFiles: readonly string[]): Promise<PrometheusServer> {
  const { server } = await requirePrometheus({ targets: [new URL(rig.gateway.url).host], ruleFiles })
  if (server === undefined) throw new Error('Prometheus was there a moment ago')
  await expect.poll(async () => (await server.targets())[0]?.health, { timeout: 15_000 }).toBe('up')
  return server
}
