import { Refused } from './api.js'
import { delay } from './dom.js'
import { readEvents } from './events.js'

/** @typedef {{ role: 'user' | 'assistant', content: string }} Message */
/** @typedef {{ prompt_tokens: number, completion_tokens: number }} Usage */
/**
 * What the response headers tell of a call.
 *
 * @typedef {object} Facts
 * @property {string | null} cache
 * @property {string | null} attempts
 * @property {string | null} provider
 * @property {string | null} overheadMs
 * @property {string | null} dropped
 * @property {string | null} streamId
 */

const maxResumes = 6

/**
 * One question, streamed; where the connection breaks it goes on behind the last event that came.
 *
 * @param {import('./api.js').Api} api
 * @param {{ model: string, messages: readonly Message[] }} request
 * @param {{ signal: AbortSignal, onFacts?: (facts: Facts) => void, onText?: (text: string) => void, onResume?: () => void }} options
 * @returns {Promise<{ usage: Usage | undefined, finish: string | undefined }>}
 * @throws {Refused} when the gateway refused, or the stream ended with an error event
 */
export async function ask(api, request, { signal, onFacts, onText, onResume }) {
  /** @type {Usage | undefined} */
  let usage
  /** @type {string | undefined} */
  let finish
  /** @type {string | undefined} */
  let lastId
  /** @type {Response | undefined} */
  let response
  try {
    response = await api.fetch('/v1/chat/completions', {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-millrace-resume': 'true' },
      body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
      signal
    })
  } catch (error) {
    // What was tried in vain is told too.
    if (error instanceof Refused) onFacts?.(factsOf(error.headers))
    throw error
  }
  const facts = factsOf(response.headers)
  onFacts?.(facts)

  for (let resumes = 0; ; resumes++) {
    try {
      response ??= await api.fetch(`/v1/streams/${facts.streamId}`, {
        headers: lastId === undefined ? {} : { 'last-event-id': lastId },
        signal
      })
      // Nothing is left to send.
      if (response.status === 204) return { usage, finish }
      for await (const { id, data } of readEvents(response)) {
        lastId = id ?? lastId
        resumes = 0
        if (data === '[DONE]') return { usage, finish }
        const event = JSON.parse(data)
        if (event.error) throw new Refused(response.status, `${event.error.message} (${event.error.code})`)
        usage = event.usage ?? usage
        finish = event.choices?.[0]?.finish_reason ?? finish
        const text = event.choices?.[0]?.delta?.content
        if (text) onText?.(text)
      }
    } catch (error) {
      if (signal.aborted || error instanceof Refused) throw error
      // The network's: the stream goes on at the gateway, and can be taken up again.
    }
    if (facts.streamId === null || resumes === maxResumes) throw new Refused(0, 'the connection broke and could not be resumed')
    response = undefined
    onResume?.()
    await delay(Math.min(2000, 200 * 2 ** resumes), signal)
  }
}

/**
 * @param {Headers} headers
 * @returns {Facts}
 */
function factsOf(headers) {
  return {
    cache: headers.get('x-millrace-cache'),
    attempts: headers.get('x-millrace-attempts'),
    provider: headers.get('x-millrace-provider'),
    overheadMs: headers.get('x-millrace-overhead-ms'),
    dropped: headers.get('x-millrace-dropped-messages'),
    streamId: headers.get('x-millrace-stream-id')
  }
}
