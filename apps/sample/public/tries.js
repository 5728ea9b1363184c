import { Refused } from './api.js'
import { ask } from './ask.js'
import { byId, delay, write } from './dom.js'
import { count, milliseconds } from './format.js'

const loadMs = 30_000
/** A browser has six connections to a server; the chat and the live figures need two, Stop one. */
const atATime = 3
const topics = ['mills', 'rivers', 'turbines', 'locks', 'canals', 'weirs', 'pumps', 'tides', 'springs', 'wells', 'dams', 'rapids']

/**
 * Two buttons that give the charts something to show: a crowd with one question, and a small load for half a minute.
 *
 * @param {import('./api.js').Api} api
 * @param {() => string} model
 * @param {(words: string) => void} tell
 */
export function createTries(api, model, tell) {
  const crowd = byId('crowd', HTMLButtonElement)
  const load = byId('load', HTMLButtonElement)
  const note = byId('tries-note', HTMLElement)
  const resting = note.textContent ?? ''
  /** @type {AbortController | undefined} */
  let loading

  crowd.addEventListener('click', async () => {
    crowd.disabled = true
    try {
      tell(await askCrowd())
    } catch (error) {
      tell(`The crowd got no answer: ${error instanceof Error ? error.message : String(error)}`)
    } finally {
      crowd.disabled = false
      crowd.focus()
    }
  })
  load.addEventListener('click', () => {
    if (loading === undefined) void runLoad()
    else loading.abort()
  })

  /** As one batch: the browser itself would send no more than six of the calls at a time. */
  async function askCrowd() {
    const startedAt = performance.now()
    // A new question each time, or the cache would know it.
    const content = `What should a visitor know about water mills at ${new Date().toLocaleTimeString('en-GB')}?`
    const lines = Array.from({ length: 20 }, (_, place) =>
      JSON.stringify({
        custom_id: `visitor-${place + 1}`,
        method: 'POST',
        url: '/v1/chat/completions',
        body: { model: model(), messages: [{ role: 'user', content }] }
      })
    )
    const before = await counts()
    const response = await api.fetch('/v1/batch', {
      method: 'POST',
      headers: { 'content-type': 'application/jsonl' },
      body: lines.join('\n')
    })
    const results = (await response.text())
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    const totalMs = performance.now() - startedAt
    const after = await counts()
    const answered = results.filter((result) => result.response?.status_code === 200).length
    const told = `20 asked the same at once: ${answered} answered, all within ${milliseconds(totalMs)}.`
    if (before === undefined || after === undefined) return told
    // Of all that was asked meanwhile: the answers themselves do not tell.
    return `${told} Meanwhile the cache counted: joined ${after.joined - before.joined}, hits ${after.hits - before.hits}, misses ${after.misses - before.misses}.`
  }

  /**
   * What the cache has counted, where the visitor may see that.
   *
   * @returns {Promise<{ hits: number, joined: number, misses: number } | undefined>}
   */
  async function counts() {
    try {
      const stats = await (await api.fetch('/v1/stats')).json()
      return stats.cache
    } catch (error) {
      if (error instanceof Refused && error.status === 403) return undefined
      throw error
    }
  }

  async function runLoad() {
    const mine = new AbortController()
    loading = mine
    load.setAttribute('aria-pressed', 'true')
    write(load, 'Stop the load')
    const endsAt = performance.now() + loadMs
    const timer = setTimeout(() => mine.abort(), loadMs)
    const tally = { asked: 0, hits: 0, failed: 0 }
    const showing = setInterval(
      () => write(note, `${Math.max(0, Math.ceil((endsAt - performance.now()) / 1000))} s left, ${summary(tally)}`),
      500
    )
    try {
      await Promise.all(Array.from({ length: atATime }, () => keepAsking(tally, mine.signal)))
    } finally {
      clearTimeout(timer)
      clearInterval(showing)
      loading = undefined
      load.setAttribute('aria-pressed', 'false')
      write(load, 'Load for 30 s')
      write(note, `${resting} The last load: ${summary(tally)}.`)
    }
  }

  /**
   * @param {{ asked: number, hits: number, failed: number }} tally
   * @param {AbortSignal} signal
   */
  async function keepAsking(tally, signal) {
    while (!signal.aborted) {
      // Two of five are new; of the others the first topics are asked most, as in recorded workloads.
      const isNew = Math.random() < 0.4
      const topic = topics[Math.floor(topics.length * Math.random() ** 2)] ?? 'mills'
      const content = isNew ? `What is new about ${topic}, at ${performance.now()}?` : `Tell me about ${topic}.`
      tally.asked++
      try {
        await ask(
          api,
          { model: model(), messages: [{ role: 'user', content }] },
          { signal, onFacts: ({ cache }) => cache !== null && ['hit', 'stale', 'joined'].includes(cache) && tally.hits++ }
        )
      } catch {
        // Counted, and told at the end: with a fault on it is what one wants to see.
        if (!signal.aborted) tally.failed++
      }
      await delay(200 + Math.random() * 400, signal)
    }
  }

  return {
    /** Where calls cost money, nobody sends hundreds of them by one click. @param {{ embedded: boolean }} provider */
    show({ embedded }) {
      load.disabled = !embedded
      if (!embedded) write(note, 'The load is for the embedded provider: here it would cost money.')
    }
  }
}

/** @param {{ asked: number, hits: number, failed: number }} tally */
function summary({ asked, hits, failed }) {
  return `${count(asked)} asked, ${count(hits)} from the cache${failed > 0 ? `, ${count(failed)} failed` : ''}`
}
