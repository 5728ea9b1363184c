import { readFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { requireRedis, type StartedBrowser, startBrowser } from '@millrace/testkit'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { readConfig } from '../src/config.ts'
import { startFreezableProxy } from '../src/freezable-proxy.ts'
import { readSamples } from '../src/prometheus-text.ts'
import { type Service, startService } from '../src/service.ts'
import { startProcess } from './gateway-process.ts'

type Browser = Extract<StartedBrowser, { skip?: undefined }>['browser']
type Page = Awaited<ReturnType<Browser['newPage']>>
type ContextOptions = Parameters<Browser['newContext']>[0]

const started = await startBrowser()
const axe = readFileSync(new URL(import.meta.resolve('axe-core/axe.min.js')), 'utf8')

describe.skipIf(started.skip !== undefined)('the page in a real browser', { timeout: 60_000 }, () => {
  let service: Service
  beforeAll(async () => {
    service = await startService(readConfig({ PORT: '0' }, '/'), {})
  })
  afterAll(async () => {
    await service?.close({ graceMs: 0 })
    await started.browser?.close()
  })

  const complaints: string[] = []
  afterEach(() => {
    const [complaint] = complaints.splice(0)
    if (complaint !== undefined) throw new Error(`the browser complained: ${complaint}`)
  })

  /** A page of its own for each test; what the browser complains about fails it. */
  async function open(
    options: ContextOptions & { readonly url?: string; readonly complains?: RegExp; readonly clock?: 'ours' } = {}
  ): Promise<Page & AsyncDisposable> {
    const { url = service.url, complains, clock, ...given } = options
    const context = await (started.browser as Browser).newContext({ locale: 'en-GB', ...given })
    const page = await context.newPage()
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type()) && !complains?.test(message.text())) complaints.push(message.text())
    })
    page.on('pageerror', (error) => complaints.push(String(error)))
    if (clock === 'ours') await page.clock.install()
    await page.goto(url)
    await page.waitForSelector('#connection[data-state="good"]')
    return Object.assign(page, {
      [Symbol.asyncDispose]: () => context.close()
    })
  }

  async function ask(page: Page, question: string): Promise<void> {
    await page.fill('#question', question)
    await page.keyboard.press('Enter')
  }

  /** The policy of the page forbids the browser to evaluate a text again and again: so it is asked from here. */
  async function grows(page: Page, characters: number): Promise<void> {
    await expect
      .poll(async () => (await page.locator('.answer .text').last().textContent())?.length, { interval: 20, timeout: 5000 })
      .toBeGreaterThan(characters)
  }

  /** The facts under the last answer, when it is there. */
  async function facts(page: Page): Promise<string[]> {
    await page.waitForSelector('.answer:last-child:not([data-state="running"]) .fact')
    return page.locator('.answer').last().locator('.fact').allTextContents()
  }

  test('a chat streams: its text grows over time', async () => {
    await using page = await open()
    await ask(page, 'How does a lock lift a boat?')
    const lengths = new Set<number>()
    while ((await page.locator('.answer[data-state="running"]').count()) > 0) {
      lengths.add((await page.locator('.answer .text').textContent())?.length ?? 0)
      await delay(30)
    }
    expect(lengths.size).toBeGreaterThan(5)
    const told = await facts(page)
    expect(told).toContain('miss')
    expect(told).toContain('1 attempt')
    expect(told.join()).toMatch(/first text .*total .*\d+ in, \d+ out/)
  })

  test('Redis that freezes is said to be down, calls go on, and it comes back', async ({ skip }) => {
    const { server, skip: without } = await requireRedis()
    if (server === undefined) return skip(without)
    await using redis = server
    await using shared = await startProcess({ REDIS_URL: redis.url })
    await using page = await open({ url: shared.url })
    const row = page.locator('#health li').first()
    await expect.poll(() => row.textContent(), { timeout: 5000 }).toMatch(/^Redis ?up/)
    await page.locator('input[name="redis"][value="frozen"]').check()
    await page.waitForSelector('#fault-banner:not([hidden])')
    const question = `Who remembers this? ${Date.now()}`
    await ask(page, question)
    expect(await facts(page)).toContain('miss')
    await expect.poll(() => row.textContent(), { timeout: 5000 }).toMatch(/^Redis ?down/)
    // From the memory of this process.
    await ask(page, question)
    await page.waitForSelector('.answer >> nth=1')
    expect(await facts(page)).toContain('hit')
    expect(await page.textContent('#connection')).toBe('Live')
    await page.click('#fault-off')
    await expect.poll(() => row.textContent(), { timeout: 8000 }).toMatch(/^Redis ?up/)
  })

  test('the same question again is a hit, and says so', async () => {
    await using page = await open()
    await page.click('text=How does a water mill work?')
    expect(await facts(page)).toContain('miss')
    await page.click('#ready >> text=How does a water mill work?')
    await page.waitForSelector('.answer >> nth=1')
    const told = await facts(page)
    expect(told).toContain('hit')
    expect(told).toContain('0 attempts')
    const [first, second] = await page.locator('.answer .text').allTextContents()
    expect(second).toBe(first)
  })

  test('twenty who ask the same at once share calls, and the page says how many', async () => {
    await using page = await open()
    await page.click('#crowd')
    const told = await page.textContent('.entry.told .text', { timeout: 15_000 })
    const [, joined] = /20 answered.* joined (\d+)/.exec(told ?? '') ?? []
    expect(Number(joined)).toBeGreaterThan(5)
    expect(told).toContain('misses 1.')
  })

  test('what is asked and answered is text, whatever it looks like', async () => {
    await using page = await open()
    const markup = '<img src="/assets/none" onerror="document.title = 1"><b>turbines</b>'
    await ask(page, markup)
    await facts(page)
    expect(await page.locator('.question .text').textContent()).toBe(markup)
    expect(await page.locator('#messages img, #messages b').count()).toBe(0)
  })

  test('a fault shows in a banner, in the call, and goes again', async () => {
    await using page = await open({ complains: /429|502|503|504/ })
    await page.locator('input[name="provider"][value="rate-limit"]').check()
    await page.waitForSelector('#fault-banner:not([hidden])')
    expect(await page.textContent('#fault-banner')).toContain('Provider: 429s')
    await ask(page, `Does a refusal reach me? ${Date.now()}`)
    await page.waitForSelector('.answer[data-state="failed"]', { timeout: 45_000 })
    expect(await page.locator('.answer .error').textContent()).toMatch(/rate/)
    const told = (await facts(page)).join()
    expect(told).toMatch(/\d attempts?,/)
    expect(told).toContain('embedded')
    await page.waitForSelector('#calls .pill[data-state="bad"]')
    await page.click('#fault-off')
    await page.waitForSelector('#fault-banner', { state: 'hidden' })
    expect(await page.locator('input[name="provider"][value="none"]').isChecked()).toBe(true)
  })

  test('a slow provider keeps one waiting, and one that resets costs a second attempt', async () => {
    await using page = await open({ complains: /502|503|504/ })
    await page.locator('input[name="provider"][value="slow"]').check()
    await page.waitForSelector('#fault-banner:not([hidden])')
    await ask(page, `Is anybody in a hurry? ${Date.now()}`)
    // Five times what its first text takes otherwise.
    await delay(1000)
    expect(await page.locator('.answer[data-state="running"] .text').textContent()).toBe('')
    await page.click('#stop')
    expect(await facts(page)).toContain('stopped')
    await page.locator('input[name="provider"][value="reset"]').check()
    await page.waitForSelector('#fault-name:has-text("Resets")')
    await ask(page, `Does a reset reach me? ${Date.now()}`)
    await page.waitForSelector('.answer:last-child[data-state="failed"] .error', { timeout: 15_000 })
    // Its second answer breaks off behind some text, which is shown; what has been said cannot be asked for again.
    expect(await facts(page)).toContain('2 attempts')
    await page.click('#fault-off')
    await page.waitForSelector('#fault-banner', { state: 'hidden' })
  })

  test('a gateway that falls silent is not called live: what was known is said to be old, until it speaks again', async () => {
    await using way = await startFreezableProxy({ host: '127.0.0.1', port: Number(new URL(service.url).port) })
    await fetch(`${service.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'scripted-large', max_tokens: 1, messages: [{ role: 'user', content: 'A short one.' }] })
    }).then((response) => response.text())
    await using page = await open({ url: `http://127.0.0.1:${way.port}`, clock: 'ours', complains: /ERR_/ })
    const health = page.locator('#health')
    await expect.poll(() => health.textContent()).toMatch(/closed.*calls go through/)
    way.freeze()
    await page.clock.runFor(4100)
    await page.waitForSelector('#connection[data-state="warn"]')
    expect(await page.textContent('#connection')).toBe('Waiting')
    await page.clock.runFor(2000)
    expect(await page.textContent('#stale')).toMatch(/No word from the gateway\..* last known \d s ago/)
    expect(await page.textContent('#stale-said[aria-live="polite"]')).toContain('not current')
    expect(await health.textContent()).toMatch(/was off.*was closed.*last known \d s ago/)
    expect(await health.textContent()).not.toContain('go through')
    expect(await page.locator('#live[data-stale] .tile').first().isVisible()).toBe(true)
    // It asks again and again, each time for a while: one that comes back is found without a reload.
    await page.clock.runFor(11_000)
    expect(await page.textContent('#stale-age')).toMatch(/1\d s ago/)
    way.thaw()
    await page.clock.runFor(5000)
    await page.waitForSelector('#connection[data-state="good"]')
    expect(await page.isVisible('#stale')).toBe(false)
    expect(await health.textContent()).toContain('calls go through')
  })

  test('figures that were paused say how old they are', async () => {
    await using page = await open({ clock: 'ours' })
    await page.click('#pause')
    await page.clock.runFor(3000)
    expect(await page.textContent('#stale')).toMatch(/Paused\..* last known \d s ago/)
    await page.click('#pause')
    await page.waitForSelector('#stale', { state: 'hidden' })
  })

  test('a language that is written from right to left is laid out so, and its neighbour in English is not', async () => {
    await using page = await open()
    await page.fill('#question', 'كيف تعمل طاحونة الماء؟')
    const directionOf = (place: string): Promise<unknown> =>
      page.evaluate(`getComputedStyle([...document.querySelectorAll('${place}')].at(-1)).direction`)
    expect(await directionOf('#question')).toBe('rtl')
    await page.keyboard.press('Enter')
    await page.waitForSelector('.question')
    expect(await directionOf('.question .text')).toBe('rtl')
    await page.keyboard.press('Escape')
    await facts(page)
    await ask(page, 'And in English?')
    await page.waitForSelector('.question >> nth=1')
    expect(await directionOf('.question .text')).toBe('ltr')
    await page.keyboard.press('Escape')
  })

  test('two tabs are live both, and each sees the calls of the other', async () => {
    await using one = await open()
    const two = await one.context().newPage()
    await two.goto(service.url)
    await two.waitForSelector('#connection[data-state="good"]')
    const before = await one.locator('#calls tbody button.open').first().getAttribute('aria-controls')
    await ask(two, `Who reads this? ${Date.now()}`)
    expect(await facts(two)).toContain('miss')
    const latest = (page: Page): Promise<string | null> =>
      page.locator('#calls tbody button.open').first().getAttribute('aria-controls')
    await expect.poll(() => latest(one), { timeout: 5000 }).not.toBe(before)
    await expect.poll(async () => (await latest(one)) === (await latest(two)), { timeout: 5000 }).toBe(true)
    expect(await one.textContent('#connection')).toBe('Live')
  })

  test('a page that stays open for long keeps no more than it shows', async () => {
    await using page = await open()
    for (let asked = 0; asked < 27; asked++) {
      await ask(page, 'The same again?')
      await facts(page)
    }
    expect(await page.locator('#messages .entry').count()).toBe(50)
    await expect.poll(() => page.locator('#calls tbody tr').count(), { timeout: 5000 }).toBe(30)
  })

  test('a switch stays where it was put while the gateway is told', async () => {
    await using page = await open()
    await page.route('**/v1/faults', async (route) => {
      await delay(1500)
      await route.continue()
    })
    const slow = page.locator('input[name="provider"][value="slow"]')
    await slow.dispatchEvent('click')
    // A snapshot has come meanwhile, which does not know of it yet.
    await delay(1200)
    expect(await slow.isChecked()).toBe(true)
    await page.waitForSelector('#fault-banner:not([hidden])')
    await page.click('#fault-off')
    await page.waitForSelector('#fault-banner', { state: 'hidden' })
  })

  test('stop ends the answer at the gateway', async () => {
    await using page = await open()
    await ask(page, 'Tell me all about turbines, at length.')
    await grows(page, 20)
    await page.click('#stop')
    expect(await facts(page)).toContain('stopped')
    const length = (await page.locator('.answer .text').textContent())?.length
    await delay(400)
    expect((await page.locator('.answer .text').textContent())?.length).toBe(length)
    await expect.poll(() => service.adapter.stats().running, { timeout: 5000 }).toBe(0)
  })

  test('an answer goes on where its connection broke', async () => {
    await using cut = await startCut(new URL(service.url).port)
    await using page = await open({ url: cut.url, complains: /ERR_|Failed to load/ })
    await ask(page, 'Which rivers drive mills in the mountains?')
    await grows(page, 40)
    cut.now()
    const told = await facts(page)
    expect(told).toContain('resumed')
    // Whole, and nothing twice: it is what the cache has of the same question.
    await ask(page, 'Which rivers drive mills in the mountains?')
    await page.waitForSelector('.answer >> nth=1')
    expect(await facts(page)).toContain('hit')
    const [resumed, whole] = await page.locator('.answer .text').allTextContents()
    expect(resumed).toBe(whole)
  })

  test('the keyboard alone can ask, stop, and switch a fault', async () => {
    await using page = await open()
    await page.keyboard.press('Tab')
    await page.keyboard.press('Enter')
    await page.keyboard.type('A long story about springs, please.')
    await page.keyboard.press('Enter')
    await grows(page, 10)
    await page.keyboard.press('Escape')
    expect(await facts(page)).toContain('stopped')
    expect(await page.evaluate('document.activeElement.id')).toBe('question')
    await page.focus('input[name="provider"]:checked')
    await page.keyboard.press('ArrowRight')
    await page.waitForSelector('#fault-banner:not([hidden])')
    await page.keyboard.press('ArrowLeft')
    await page.waitForSelector('#fault-banner', { state: 'hidden' })
  })

  test.each([
    ['light', { colorScheme: 'light', viewport: { width: 1440, height: 900 } }],
    ['dark', { colorScheme: 'dark', viewport: { width: 1440, height: 900 } }],
    ['on a phone', { colorScheme: 'light', viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true }]
  ] as const)('axe finds nothing serious: %s', async (_name, options) => {
    await using page = await open({ ...options, bypassCSP: true, reducedMotion: 'reduce' })
    await page.click('#ready button >> nth=0')
    await facts(page)
    await page.waitForSelector('#calls tbody tr')
    await page.click('button.open >> nth=0')
    await page.locator('input[name="provider"][value="slow"]').check()
    await page.waitForSelector('#fault-banner:not([hidden])')
    await page.addScriptTag({ content: axe })
    const found = (await page.evaluate('axe.run().then(({ violations }) => violations)')) as {
      id: string
      impact: string
      nodes: { html: string; failureSummary: string }[]
    }[]
    await page.click('#fault-off')
    await page.waitForSelector('#fault-banner', { state: 'hidden' })
    const said = found.map(
      ({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join('\n')}`
    )
    expect(said.filter((line) => /^(?:serious|critical)/.test(line))).toEqual([])
  })

  test('a phone scrolls in one direction, and its targets are 44 pixels', async () => {
    await using page = await open({ viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true })
    await page.click('#ready button >> nth=0')
    await facts(page)
    await page.waitForSelector('#calls tbody tr')
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(390)
    const small = await page.evaluate(`[...document.querySelectorAll('button, textarea, .choices label, .check')]
      .map((target) => [target.textContent, target.getBoundingClientRect()])
      .filter(([, box]) => box.width > 0 && (box.height < 43.9 || box.width < 43.9)).map(([name]) => name)`)
    expect(small).toEqual([])
  })

  test('the numbers of the page are those of /v1/stats and /metrics', async () => {
    await using page = await open()
    await page.click('#ready button >> nth=2')
    await facts(page)
    await page.click('#ready button >> nth=2')
    await page.waitForSelector('.answer >> nth=1')
    await facts(page)
    await expect.poll(() => service.adapter.stats().running).toBe(0)
    // The page is told once a second.
    await delay(2500)
    const stats = (await (await fetch(`${service.url}/v1/stats`)).json()) as ReturnType<Service['adapter']['stats']>
    const metrics = await (await fetch(`${service.url}/metrics`)).text()
    const shown = Object.fromEntries(
      (await page.evaluate(`[...document.querySelectorAll('data')].map((one) => [one.dataset.figure, Number(one.value)])`)) as [
        string,
        number
      ][]
    )
    const origins = Object.values(stats.origins)
    expect(shown).toMatchObject({
      hits: stats.cache?.hits,
      misses: stats.cache?.misses,
      joined: stats.cache?.joined,
      hitRate: stats.cache?.hitRate,
      calls: stats.calls,
      tokensIn: stats.tokens.input,
      tokensOut: stats.tokens.output,
      tokensSaved: stats.tokensSaved.input + stats.tokensSaved.output,
      moneySpent: stats.moneySpent,
      moneySaved: stats.moneySaved,
      upstreamRequests: origins.reduce((sum, origin) => sum + origin.requests, 0),
      socketsOpened: origins.reduce((sum, origin) => sum + origin.opened, 0)
    })
    const samples = [...readSamples(metrics)]
    function total(name: string, label = ''): number {
      return samples
        .filter((one) => one.name === name && JSON.stringify(one.labels).includes(label))
        .reduce((all, { value }) => all + value, 0)
    }
    for (const state of ['hit', 'miss'])
      expect(total('millrace_cache_lookups_total', `"${state}"`)).toBe(state === 'hit' ? shown.hits : shown.misses)
    expect(total('millrace_cost_spent_total')).toBeCloseTo(shown.moneySpent as number, 12)
    expect(shown.hits).toBeGreaterThan(0)
    const streams = total('gen_ai_client_operation_time_to_first_chunk_count')
    expect(await page.textContent('#text-firstText')).toMatch(new RegExp(`^${streams} streams`))
  })

  test('without the token the page asks for it, and goes on with it', async () => {
    const token = 'a-token-of-some-length-0123456789'
    await service.close({ graceMs: 0 })
    service = await startService(readConfig({ PORT: '0', MILLRACE_TOKEN: token }, '/'), {})
    const context = await (started.browser as Browser).newContext({ locale: 'en-GB' })
    const page = await context.newPage()
    await page.goto(service.url)
    await page.waitForSelector('#token-form:not([hidden])')
    await page.fill('#token', 'a-wrong-token-of-some-length-0123')
    await page.keyboard.press('Enter')
    await page.waitForSelector('#connection[data-state="bad"]')
    await page.waitForSelector('#token-form:not([hidden])')
    await page.fill('#token', token)
    await page.keyboard.press('Enter')
    await page.waitForSelector('#connection[data-state="good"]')
    expect(await page.isVisible('#token-form')).toBe(false)
    await ask(page, 'Am I in?')
    expect(await facts(page)).toContain('miss')
    await context.close()
  })
})

/** A way to the gateway that can be cut: all its connections end at once, and new ones are let in. */
async function startCut(port: string): Promise<AsyncDisposable & { readonly url: string; now(): void }> {
  const sockets = new Set<Socket>()
  const server = createServer((near) => {
    const far = connect(Number(port), '127.0.0.1')
    near.pipe(far).pipe(near)
    for (const socket of [near, far]) {
      sockets.add(socket)
      socket.on('error', () => socket.destroy())
      socket.on('close', () => {
        sockets.delete(socket)
        near.destroy()
        far.destroy()
      })
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  function now(): void {
    for (const socket of sockets) socket.destroy()
  }
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    now,
    async [Symbol.asyncDispose]() {
      now()
      await new Promise((resolve) => server.close(resolve))
    }
  }
}
