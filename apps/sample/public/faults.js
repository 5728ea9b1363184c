import { byId, element, write } from './dom.js'

/** @typedef {import('../src/snapshot.ts').Snapshot} Snapshot */

const groups = /** @type {const} */ ([
  { of: 'provider', title: 'Provider', names: ['none', 'slow', 'rate-limit', 'reset'] },
  { of: 'redis', title: 'Redis', names: ['none', 'frozen'] }
])

/** @type {Record<string, { label: string, watch?: string }>} */
const words = {
  none: { label: 'Fine' },
  slow: { label: 'Slow', watch: 'Watch first text and the whole call move to the right, while hits stay as fast as they were.' },
  'rate-limit': {
    label: '429s',
    watch: 'Watch attempts go above 1 and the limiter hold calls back; what is cached is still answered.'
  },
  reset: { label: 'Resets', watch: 'Watch attempts go above 1, and the breaker open when too many have failed.' },
  frozen: { label: 'Frozen', watch: 'Watch Redis go down under Health, and calls go on from memory.' }
}

/**
 * The switches that break the provider or Redis, and the banner that says what is broken.
 *
 * @param {import('./api.js').Api} api
 */
export function createFaults(api) {
  const note = byId('faults-note', HTMLElement)
  const banner = byId('fault-banner', HTMLElement)
  const resting = note.textContent ?? ''
  const place = byId('faults', HTMLElement)
  /** @type {Map<string, HTMLInputElement>} */
  const inputs = new Map()
  let underWay = 0

  for (const { of, title, names } of groups) {
    const choices = names.map((name) => {
      const input = document.createElement('input')
      Object.assign(input, { type: 'radio', name: of, value: name, disabled: true })
      input.addEventListener('change', () => set({ [of]: name }))
      inputs.set(`${of} ${name}`, input)
      return element('label', {}, input, element('span', {}, words[name]?.label ?? name))
    })
    place.append(element('fieldset', {}, element('legend', {}, title), element('div', { class: 'choices' }, ...choices)))
  }
  byId('fault-off', HTMLButtonElement).addEventListener('click', () => {
    // The button goes with its banner: focus must not fall to the top of the page.
    inputs.get('provider none')?.focus()
    return set({ provider: 'none', redis: 'none' })
  })

  /** @param {Record<string, string>} wanted */
  async function set(wanted) {
    const possible = Object.entries(wanted).filter(([of, name]) => inputs.get(`${of} ${name}`)?.disabled === false)
    underWay++
    try {
      const body = JSON.stringify(Object.fromEntries(possible))
      const response = await api.fetch('/v1/faults', { method: 'PUT', headers: { 'content-type': 'application/json' }, body })
      show(await response.json())
    } catch (error) {
      write(note, `That could not be switched: ${error instanceof Error ? error.message : String(error)}`)
    } finally {
      underWay--
    }
  }

  /** @param {Snapshot['faults']} faults */
  function show(faults) {
    for (const { of, names } of groups) {
      for (const name of names) {
        const input = inputs.get(`${of} ${name}`)
        if (input === undefined) continue
        input.disabled = !faults.available[of].some((one) => one === name)
        input.checked = faults[of] === name
      }
    }
    const on = groups.flatMap(({ of, title }) => (faults[of] === 'none' ? [] : [{ title, ...words[faults[of]] }]))
    banner.hidden = on.length === 0
    write(byId('fault-name', HTMLElement), on.map(({ title, label }) => `${title}: ${label}.`).join(' '))
    write(byId('fault-watch', HTMLElement), on.map(({ watch }) => watch).join(' '))
    const { provider, redis } = faults.available
    if (provider.length === 0 && redis.length === 0)
      write(note, 'Only with the embedded provider: this gateway calls a real one.')
    else if (redis.length === 0) write(note, 'Switch a fault on and watch. Redis can be frozen where REDIS_URL is set.')
    else write(note, resting)
  }

  return {
    /** @param {Snapshot['faults']} faults */
    show(faults) {
      // A snapshot may be older than what was switched just now, and would switch it back under the finger.
      if (underWay === 0) show(faults)
    }
  }
}
