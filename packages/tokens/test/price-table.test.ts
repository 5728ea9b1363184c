import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Usage } from '@millrace/core'
import { seededRandom } from '@millrace/testkit'
import { calcPrice, type MatchLogic, waitForUpdate } from '@pydantic/genai-prices'
import { describe, expect, test } from 'vitest'
import { createPrices } from '../src/price.ts'
import { addedDate, addedModels, addedWindows, batchRates, tableDate, tableVersion } from '../src/price-added.ts'
import { findListing } from '../src/price-table.ts'

const run = promisify(execFile)
const seed = 20_261_123

test('the date belongs to the version of the table that is installed', () => {
  const main = createRequire(import.meta.url).resolve('@pydantic/genai-prices')
  const { version } = JSON.parse(readFileSync(new URL('../package.json', `file://${main}`), 'utf8')) as { version: string }
  expect(version).toBe(tableVersion)
  expect(createPrices().updated).toBe(tableDate)
  for (const date of [tableDate, addedDate]) expect(new Date(date).toISOString()).toBe(`${date}T00:00:00.000Z`)
})

test('what is added to the table is not in it already', async () => {
  const providers = (await waitForUpdate()) ?? []
  for (const [provider, models] of addedModels) {
    const known = providers.find(({ id }) => id === provider)?.models.map(({ id }) => id)
    for (const { id } of models) expect(known).not.toContain(id)
  }
  for (const [name] of addedWindows) {
    const [provider, ...id] = name.split('/')
    const model = providers.find((one) => one.id === provider)?.models.find((one) => one.id === id.join('/'))
    expect([name, model?.id, model?.context_window]).toEqual([name, id.join('/'), undefined])
  }
  for (const provider of batchRates.keys()) expect(providers.map(({ id }) => id)).toContain(provider)
})

test(`agrees with the table's own calculator on every model that both price (seed ${seed})`, async () => {
  const providers = (await waitForUpdate()) ?? []
  const random = seededRandom(seed)
  const upTo = (max: number): number => Math.floor(random() * max)
  const prices = createPrices()
  let compared = 0
  for (const { id: provider, models } of providers) {
    for (const model of models) {
      const name = nameOf(model.match) ?? model.id
      for (let round = 0; round < 5; round++) {
        const at = new Date(Date.UTC(2024, upTo(40), 1 + upTo(28), upTo(24), upTo(60)))
        const usage: Usage = {
          input: { uncached: upTo(300_000), cacheRead: round > 1 ? upTo(100_000) : 0, cacheWrite: round > 3 ? upTo(50_000) : 0 },
          output: { text: upTo(20_000), reasoning: upTo(20_000) },
          estimated: false,
          billed: true
        }
        const ours = prices.cost(usage, name, { provider, at })
        if (ours === null || ours.assumed.length > 0 || ours.model !== model.id) continue
        const theirs = calcPrice(
          {
            input_tokens: usage.input.uncached + usage.input.cacheRead + usage.input.cacheWrite,
            cache_read_tokens: usage.input.cacheRead,
            cache_write_tokens: usage.input.cacheWrite,
            output_tokens: usage.output.text + usage.output.reasoning,
            output_reasoning_tokens: usage.output.reasoning
          },
          name,
          { providerId: provider, timestamp: at }
        )
        if (theirs === null || theirs.model.id !== model.id) continue
        compared++
        expect([name, ours.total / theirs.total_price]).toEqual([name, expect.closeTo(1, 10)])
      }
    }
  }
  expect(compared).toBeGreaterThan(3000)
})

test('every model of every provider is found by its name, and nothing that is almost that name', async () => {
  const providers = (await waitForUpdate()) ?? []
  const byId = new Map(providers.map((provider) => [provider.id, provider]))
  let rows = 0
  for (const { id: provider, fallback_model_providers: others = [], models } of providers) {
    const sold = [provider, ...others].flatMap((id) => [...(byId.get(id)?.models ?? []), ...(addedModels.get(id) ?? [])])
    for (const { id } of models) {
      rows++
      const own = { provider, model: id }
      for (const name of [id, id.toUpperCase(), `${provider}/${id}`, `${provider}:${id}`]) {
        expect([name, findListing(name, provider)]).toEqual([name, expect.objectContaining(own)])
        if (name.length > id.length) expect([name, findListing(name)]).toEqual([name, expect.objectContaining(own)])
      }
      const more = [
        '0',
        '9',
        'x',
        '-0',
        '-9',
        '.9',
        '-10',
        '-500',
        '-5001',
        '-32768',
        '-32k',
        '-x',
        '-distill-llama',
        ':7b',
        '/x'
      ]
      const before = ['x', 'my-', 'acme.', 'acme/', '/', '/models/', 'accounts/acme/models/']
      const close = [...more.map((end) => id + end), ...before.map((start) => start + id), id.slice(1), id.slice(0, -1)]
      // Fine-tunes have any words, and a rule of the table takes in one digit more.
      for (const name of close.filter((one) => !/ft-|^gemini-3\.5-flash-\d$/.test(one))) {
        const found = findListing(name, provider)
        if (found === null) continue
        const { match } = sold.find((model) => model.id === found.model) ?? {}
        const known = match && [found.model, ...literalsOf(match)].map((literal) => literal.toLowerCase())
        expect([provider, name, known]).toEqual([provider, name, expect.arrayContaining([name.toLowerCase()])])
      }
      for (const start of before.slice(3)) expect([start + id, findListing(start + id)]).toEqual([start + id, null])
    }
  }
  expect(rows).toBeGreaterThan(1600)
})

function literalsOf(rule: MatchLogic): readonly string[] {
  if ('or' in rule) return rule.or.flatMap(literalsOf)
  if ('and' in rule) return rule.and.flatMap(literalsOf)
  return Object.values(rule) as string[]
}

/** The first name that a rule names whole. */
function nameOf(rule: MatchLogic): string | undefined {
  if ('equals' in rule) return rule.equals
  if ('or' in rule) return rule.or.map(nameOf).find((name) => name !== undefined)
  return undefined
}

test('no provider of the table asks more for writing to its cache than what is assumed where it does not say', async () => {
  const dearest: number[] = []
  for (const { id, models } of (await waitForUpdate()) ?? []) {
    for (const model of models) {
      const rates = findListing(model.id, id)?.rates(new Date(), 0)
      if (!rates?.input) continue
      dearest.push((rates.longCacheWrite ?? rates.cacheWrite ?? 0) / rates.input)
    }
  }
  expect(dearest.length).toBeGreaterThan(500)
  expect(Math.max(...dearest)).toBeLessThanOrEqual(2.5)
})

describe('in a process of its own', () => {
  const price = new URL('../src/price.ts', import.meta.url).href
  const usage = '{ input: { uncached: 1, cacheRead: 0, cacheWrite: 0 }, output: { text: 1, reasoning: 0 }, billed: true }'

  async function program(text: string): Promise<unknown> {
    const flags = ['--conditions=@millrace/source', '--input-type=module', '--eval', text]
    const { stdout } = await run(process.execPath, flags, { cwd: fileURLToPath(new URL('.', import.meta.url)) })
    return JSON.parse(stdout)
  }

  test('the table is loaded by the first question, not by the import, nor by making prices', async () => {
    const seen = await program(`
      import { registerHooks } from 'node:module'
      let loads = 0
      registerHooks({ load: (url, context, next) => { if (url.includes('genai-prices')) loads++; return next(url, context) } })
      const { createPrices, cost } = await import(${JSON.stringify(price)})
      const prices = createPrices({ overrides: { 'gpt-4o': { inputPerMillion: 1 } } })
      prices.updated
      const before = loads
      cost(${usage}, 'gpt-4o')
      const after = loads
      prices.contextWindow('claude-sonnet-5')
      console.log(JSON.stringify({ before, after, last: loads }))
    `)
    expect(seen).toEqual({ before: 0, after: 1, last: 1 })
  })

  test('nothing is sent and nothing stays behind: no socket, no request, no timer', async () => {
    const seen = await program(`
      import { subscribe } from 'node:diagnostics_channel'
      import dns from 'node:dns'
      import net from 'node:net'
      const heard = []
      for (const name of ['net.client.socket', 'http.client.request.created', 'undici:request:create', 'undici:client:beforeConnect']) {
        subscribe(name, () => heard.push(name))
      }
      const { createPrices } = await import(${JSON.stringify(price)})
      const before = process.getActiveResourcesInfo().length
      const prices = createPrices()
      const total = prices.cost(${usage}, 'gpt-4o').total
      prices.contextWindow('nobody-knows')
      const left = process.getActiveResourcesInfo().length - before
      await new Promise((resolve) => setTimeout(resolve, 200))
      const silent = [...heard]
      // The ears work: a socket of our own is heard.
      await new Promise((resolve) => net.connect({ port: 1, host: '127.0.0.1' }).on('error', resolve))
      console.log(JSON.stringify({ priced: total > 0, left, silent, heard }))
    `)
    expect(seen).toEqual({ priced: true, left: 0, silent: [], heard: ['net.client.socket'] })
  })
})
