import { ask } from './ask.js'
import { byId, element, write } from './dom.js'
import { count, milliseconds } from './format.js'

/** @typedef {import('./ask.js').Message} Message */

const keptMessages = 50
const sentMessages = 20
const questions = [
  'Why is the sky blue?',
  'How does a water mill work?',
  'What is a circuit breaker for?',
  'Explain back-pressure in three sentences.'
]

/**
 * The conversation: one question at a time, its answer as it comes, and under it what the gateway did.
 *
 * @param {import('./api.js').Api} api
 * @param {() => string} model
 */
export function createChat(api, model) {
  const form = byId('chat-form', HTMLFormElement)
  const question = byId('question', HTMLTextAreaElement)
  const send = byId('send', HTMLButtonElement)
  const stop = byId('stop', HTMLButtonElement)
  const messages = byId('messages', HTMLElement)
  const withHistory = byId('with-history', HTMLInputElement)
  const said = byId('said', HTMLElement)
  /** @type {Message[]} */
  let talk = []
  /** @type {{ stop(): void } | undefined} */
  let running
  let atEnd = true

  form.addEventListener('submit', (event) => {
    event.preventDefault()
    const text = question.value.trim()
    if (text === '') return question.focus()
    if (running !== undefined) return
    question.value = ''
    void answer(text, withHistory.checked)
  })
  question.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return
    event.preventDefault()
    form.requestSubmit()
  })
  messages.addEventListener('scroll', () => {
    atEnd = messages.scrollHeight - messages.scrollTop - messages.clientHeight < 40
  })
  stop.addEventListener('click', () => running?.stop())
  byId('chat-title', HTMLElement)
    .closest('section')
    ?.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') running?.stop()
    })
  byId('clear', HTMLButtonElement).addEventListener('click', () => {
    running?.stop()
    talk = []
    for (const shown of messages.querySelectorAll('.entry')) shown.remove()
    byId('chat-empty', HTMLElement).hidden = false
  })
  for (const text of questions) {
    const button = element('button', { type: 'button', class: 'chip' }, text)
    button.addEventListener('click', () => running === undefined && void answer(text, false))
    byId('ready', HTMLElement).append(element('li', {}, button))
  }

  /**
   * @param {string} text
   * @param {boolean} goesOn whether what was said so far is sent too
   */
  async function answer(text, goesOn) {
    entry('question', text)
    const { made, text: place, facts } = entry('answer', '')
    const controller = new AbortController()
    /** @type {string | null} */
    let streamId = null
    /** @type {string[]} */
    const told = []
    let stopped = false
    let firstTextMs = Number.NaN
    const startedAt = performance.now()
    running = {
      stop() {
        stopped = true
        // At the gateway, which ends the stream as it should; a call that has no stream yet ends with its connection.
        if (streamId === null) return controller.abort()
        api.fetch(`/v1/streams/${streamId}`, { method: 'DELETE' }).catch(() => controller.abort())
      }
    }
    setBusy('busy')
    made.setAttribute('data-state', 'running')
    const waiting = setInterval(
      () => write(facts, `${milliseconds(Math.round((performance.now() - startedAt) / 100) * 100)} …`),
      100
    )
    let outcome = 'done'
    try {
      const history = goesOn ? talk : []
      const { usage, finish } = await ask(
        api,
        { model: model(), messages: [...history, { role: /** @type {const} */ ('user'), content: text }].slice(-sentMessages) },
        {
          signal: controller.signal,
          onFacts(head) {
            streamId = head.streamId
            if (head.cache !== null) told.push(head.cache)
            if (head.attempts !== null) told.push(`${head.attempts} ${head.attempts === '1' ? 'attempt' : 'attempts'}`)
            if (head.provider !== null) told.push(head.provider)
            if (head.overheadMs !== null) told.push(`own ${milliseconds(Number(head.overheadMs))}`)
            if (head.dropped !== null && head.dropped !== '0') told.push(`${head.dropped} messages dropped`)
          },
          onText(piece) {
            if (Number.isNaN(firstTextMs)) firstTextMs = performance.now() - startedAt
            place.append(piece)
            follow()
          },
          onResume: () => told.push('resumed')
        }
      )
      if (!Number.isNaN(firstTextMs)) told.push(`first text ${milliseconds(firstTextMs)}`)
      told.push(`total ${milliseconds(performance.now() - startedAt)}`)
      if (usage !== undefined) told.push(`${count(usage.prompt_tokens)} in, ${count(usage.completion_tokens)} out`)
      if (stopped) told.push('stopped')
      else if (finish === 'length') told.push('cut at the limit')
      talk.push({ role: 'user', content: text }, { role: 'assistant', content: place.textContent ?? '' })
      talk = talk.slice(-keptMessages)
    } catch (error) {
      outcome = controller.signal.aborted ? 'done' : 'failed'
      if (outcome === 'done') told.push('stopped')
      else place.append(element('strong', { class: 'error' }, error instanceof Error ? error.message : String(error)))
      told.push(`after ${milliseconds(performance.now() - startedAt)}`)
    } finally {
      clearInterval(waiting)
      running = undefined
      made.setAttribute('data-state', outcome)
      facts.replaceChildren(...told.map((fact) => element('span', { class: 'fact', 'data-fact': fact }, fact)))
      // Once, and not at every token: it would never finish speaking.
      write(said, outcome === 'failed' ? `No answer: ${place.textContent}` : `Answered, ${told.join(', ')}: ${place.textContent}`)
      setBusy('idle')
      follow()
    }
  }

  /** @param {'busy' | 'idle'} state */
  function setBusy(state) {
    const hadFocus = document.activeElement === stop || document.activeElement === send
    stop.hidden = state === 'idle'
    send.hidden = state === 'busy'
    if (hadFocus) (state === 'busy' ? stop : question).focus()
  }

  /** The end stays in view for those who have not scrolled away from it. */
  function follow() {
    if (atEnd) messages.scrollTop = messages.scrollHeight
  }

  /**
   * @param {'question' | 'answer' | 'told'} kind
   * @param {string} words
   */
  function entry(kind, words) {
    byId('chat-empty', HTMLElement).hidden = true
    const text = element('p', { class: 'text', dir: 'auto' }, words)
    const facts = element('p', { class: 'facts' })
    const who = element('span', { class: 'hidden' }, kind === 'question' ? 'You: ' : 'Answer: ')
    const made = element('article', { class: `entry ${kind}` }, who, text, ...(kind === 'answer' ? [facts] : []))
    messages.append(made)
    while (messages.querySelectorAll('.entry').length > keptMessages) messages.querySelector('.entry')?.remove()
    atEnd = true
    follow()
    return { made, text, facts }
  }

  return {
    /** A line among the messages that is none: what a try came to. @param {string} words */
    tell(words) {
      entry('told', words)
      write(said, words)
    }
  }
}
