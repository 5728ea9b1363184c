import { byId, element, write } from './dom.js'
import { count, milliseconds, money } from './format.js'

/** @typedef {import('../src/recorder.ts').CallRecord} CallRecord */
/** @typedef {import('../src/recorder.ts').RecordedSpan} RecordedSpan */

const shown = 15

/**
 * The last calls as a table whose last column is a waterfall; a row opens to its spans in words.
 */
export function createCalls() {
  const body = byId('calls', HTMLTableElement).tBodies[0]
  if (body === undefined) throw new TypeError('the table of calls needs a body')
  /** @type {Map<string, ReturnType<typeof createRow>>} */
  const rows = new Map()

  return {
    /** @param {readonly CallRecord[]} calls newest first */
    show(calls) {
      const latest = calls.slice(0, shown)
      byId('calls-empty', HTMLElement).hidden = latest.length > 0
      byId('calls', HTMLElement).hidden = latest.length === 0
      const scaleMs = Math.max(1, ...latest.map(lengthOf))
      write(byId('calls-scale', HTMLElement), milliseconds(scaleMs))

      const ids = new Set(latest.map(({ id }) => id))
      for (const [id, row] of rows) {
        if (ids.has(id)) continue
        row.remove()
        rows.delete(id)
      }
      // From the oldest up: rows that are there stay where they are, so that focus stays too.
      for (const call of latest.toReversed()) {
        const row = rows.get(call.id) ?? createRow(call.id, body)
        rows.set(call.id, row)
        row.show(call, scaleMs)
      }
    }
  }
}

/** @param {CallRecord} call */
function lengthOf({ totalMs, spans }) {
  return Math.max(totalMs ?? 0, ...spans.map(({ startMs, endMs }) => endMs ?? startMs))
}

/**
 * @param {string} id
 * @param {HTMLTableSectionElement} body
 */
function createRow(id, body) {
  const detailId = `spans-${id}`
  const button = element('button', { type: 'button', class: 'open', 'aria-expanded': 'false', 'aria-controls': detailId })
  const outcome = element('span', { class: 'pill' })
  const cells = {
    cache: cell('cache'),
    attempts: cell('number attempts'),
    total: cell('number'),
    bars: cell('bars')
  }
  const track = element('div', { class: 'track', 'aria-hidden': 'true' })
  cells.bars.append(track)
  const head = element('th', { role: 'rowheader', scope: 'row' }, button)
  const row = element(
    'tr',
    { role: 'row' },
    head,
    element('td', { role: 'cell', class: 'outcome' }, outcome),
    ...Object.values(cells)
  )
  const list = element('ul', { class: 'spans' })
  const detail = element(
    'tr',
    { role: 'row', class: 'detail', id: detailId, hidden: '' },
    element('td', { role: 'cell', colspan: '6' }, list)
  )
  body.prepend(row, detail)

  /** @type {CallRecord | undefined} */
  let latest

  button.addEventListener('click', () => {
    const open = detail.hidden
    detail.hidden = !open
    button.setAttribute('aria-expanded', String(open))
    if (open && latest !== undefined) writeSpans(list, latest)
  })

  return {
    /**
     * @param {CallRecord} call
     * @param {number} scaleMs
     */
    show(call, scaleMs) {
      latest = call
      write(button, `${new Date(call.at).toLocaleTimeString('en-GB')} ${call.path.replace('/v1/', '')}`)
      write(
        outcome,
        call.outcome === 'success'
          ? 'ok'
          : call.outcome === 'error'
            ? (call.status ?? 0) >= 400
              ? `error ${call.status}`
              : 'broke off'
            : call.outcome
      )
      outcome.dataset.state = call.outcome === 'success' ? 'good' : call.outcome === 'error' ? 'bad' : 'plain'
      write(cells.cache, call.cache ?? '–')
      cells.cache.dataset.cache = call.cache ?? ''
      write(cells.attempts, call.attempts === undefined ? '–' : count(call.attempts))
      write(cells.total, call.totalMs === undefined ? '…' : milliseconds(call.totalMs))
      // How long the first text took is told by where the stream begins.
      const bars = call.spans.filter(({ name }) => name !== 'first text')
      drawBars(track, bars, scaleMs, lengthOf(call))
      // Its words cost more than its bars, and nobody reads them while it is shut.
      if (!detail.hidden) writeSpans(list, call)
    },
    remove() {
      row.remove()
      detail.remove()
    }
  }
}

/** @param {string} name */
const cell = (name) => element('td', { role: 'cell', class: name })

/**
 * @param {HTMLElement} track
 * @param {readonly RecordedSpan[]} spans
 * @param {number} scaleMs
 * @param {number} untilMs where a span that still runs ends for now
 */
function drawBars(track, spans, scaleMs, untilMs) {
  while (track.children.length > spans.length) track.lastElementChild?.remove()
  for (const [place, span] of spans.entries()) {
    const bar = track.children[place] ?? track.appendChild(element('i', {}))
    if (!(bar instanceof HTMLElement)) continue
    bar.className = kindOf(span)
    bar.style.left = `${(span.startMs / scaleMs) * 100}%`
    bar.style.width = `${(((span.endMs ?? untilMs) - span.startMs) / scaleMs) * 100}%`
    bar.title = wordsOf(span)
  }
}

/** @param {RecordedSpan} span */
function kindOf({ name, failed }) {
  if (failed === true) return 'failed'
  if (name === 'limits') return 'waited'
  if (name === 'cache') return 'cache'
  return name.startsWith('attempt') ? 'attempt' : 'stream'
}

/** @param {RecordedSpan} span */
function wordsOf({ name, startMs, endMs, told, failed }) {
  const lasted = endMs === undefined ? 'still running' : milliseconds(endMs - startMs)
  return `${name}: ${lasted}, from ${milliseconds(startMs)}${told === undefined ? '' : `, ${told}`}${failed === true ? ', failed' : ''}`
}

/**
 * @param {HTMLElement} list
 * @param {CallRecord} call
 */
function writeSpans(list, call) {
  const facts = [
    call.model,
    call.provider && `from ${call.provider}`,
    call.firstTextMs !== undefined && `first text ${milliseconds(call.firstTextMs)}`,
    call.overheadMs !== undefined && `own ${milliseconds(call.overheadMs)}`,
    call.inputTokens !== undefined && `${count(call.inputTokens)} tokens in, ${count(call.outputTokens ?? 0)} out`,
    call.cost !== undefined && call.cost > 0 && `cost ${money(call.cost)}`,
    call.saved !== undefined && call.saved > 0 && `saved ${money(call.saved)}`,
    `id ${call.id}`
  ].filter((fact) => typeof fact === 'string')
  const lines = [facts.join(' · '), ...call.spans.map(wordsOf)]
  while (list.children.length > lines.length) list.lastElementChild?.remove()
  for (const [place, line] of lines.entries()) write(list.children[place] ?? list.appendChild(element('li', {})), line)
}
