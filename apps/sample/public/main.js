import { createApi } from './api.js'
import { createCalls } from './calls.js'
import { createCharts } from './charts.js'
import { createChat } from './chat.js'
import { byId, write } from './dom.js'
import { createFaults } from './faults.js'
import { createFigures } from './figures.js'
import { createFreshness } from './freshness.js'
import { createLive } from './live.js'
import { createTheme } from './theme.js'
import { createTries } from './tries.js'

/** @typedef {import('../src/snapshot.ts').Snapshot} Snapshot */

const states = {
  live: { pill: 'Live', state: 'good' },
  paused: { pill: 'Paused', state: 'plain' },
  waiting: { pill: 'Waiting', state: 'warn' },
  refused: { pill: 'No access', state: 'bad' }
}

let model = ''
const tokenForm = byId('token-form', HTMLFormElement)
const api = createApi(() => {
  tokenForm.hidden = false
})
const chat = createChat(api, () => model)
const tries = createTries(api, () => model, chat.tell)
const faults = createFaults(api)
const figures = createFigures()
const freshness = createFreshness(figures.age)
const calls = createCalls()
const charts = createCharts()
createTheme(byId('theme', HTMLButtonElement), charts.redraw)

const live = createLive(api, {
  onSnapshot(snapshot) {
    freshness.seen()
    model = snapshot.model
    figures.show(snapshot)
    charts.show(snapshot)
    calls.show(snapshot.calls)
    faults.show(snapshot.faults)
    tries.show(snapshot)
    const from = snapshot.embedded ? 'the embedded provider' : snapshot.providers.join(', ')
    write(byId('model', HTMLElement), `${snapshot.model} from ${from}`)
    write(byId('replica', HTMLElement), `Replica ${snapshot.replica}, version ${snapshot.version}.`)
  },
  onState(connection) {
    freshness.set(connection)
    const pill = byId('connection', HTMLElement)
    write(pill, states[connection].pill)
    pill.dataset.state = states[connection].state
  }
})

tokenForm.addEventListener('submit', (event) => {
  event.preventDefault()
  api.setToken(byId('token', HTMLInputElement).value.trim())
  tokenForm.hidden = true
  byId('question', HTMLElement).focus()
  void live.connect()
})
const pause = byId('pause', HTMLButtonElement)
pause.addEventListener('click', () => {
  const paused = pause.getAttribute('aria-pressed') !== 'true'
  pause.setAttribute('aria-pressed', String(paused))
  void live.set({ paused })
})
write(byId('origin', HTMLElement), `${location.origin}/v1`)
write(byId('base-url', HTMLElement), `${location.origin}/v1`)
void live.connect()
