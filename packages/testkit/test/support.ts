import { setTimeout as delay } from 'node:timers/promises'
import { expect } from 'vitest'

/** The server learns of a closed socket a moment later than the client closes it. */
export async function becomes<T>(value: () => T, expected: T): Promise<void> {
  const until = performance.now() + 2000
  while (value() !== expected && performance.now() < until) await delay(5)
  expect(value()).toBe(expected)
}

/** Enough of a parser for events that our own servers write. */
export async function eventsOf(response: Response): Promise<{ event: string | undefined; data: string }[]> {
  const blocks = (await response.text()).split('\n\n').filter((block) => block !== '')
  return blocks.map((block) => ({
    event: /^event: (.*)$/m.exec(block)?.[1],
    data: /^data: (.*)$/m.exec(block)?.[1] ?? ''
  }))
}
