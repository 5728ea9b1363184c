import { setTimeout as delay } from 'node:timers/promises'
import type { SharedFollowOptions, SharedLog } from '@millrace/core'
import { expect } from 'vitest'

export async function readAll(log: SharedLog, id: string, options?: SharedFollowOptions): Promise<string[]> {
  const items: string[] = []
  for await (const batch of log.follow(id, options)) items.push(...batch)
  return items
}

export async function failureOf(reading: Promise<unknown>): Promise<unknown> {
  return reading.then(
    (value) => expect.unreachable(`it gave ${JSON.stringify(value)}`),
    (error: unknown) => error
  )
}

export async function until(condition: () => boolean | Promise<boolean>, withinMs = 10_000): Promise<void> {
  const end = performance.now() + withinMs
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`not within ${withinMs} ms: ${condition.toString()}`)
    await delay(5)
  }
}
