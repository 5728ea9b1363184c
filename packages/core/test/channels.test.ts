import { type ChannelListener, channel } from 'node:diagnostics_channel'
import { describe, expect, expectTypeOf, it } from 'vitest'
import { type CallEnd, channels } from '../src/index.ts'

describe('channels', () => {
  it('are the process-wide channels of these names, each its own', () => {
    const names = Object.values(channels).map(({ name }) => String(name))
    expect(names).toEqual([
      'millrace:call:start',
      'millrace:call:content',
      'millrace:call:end',
      'millrace:attempt:start',
      'millrace:attempt:end',
      'millrace:cache:lookup'
    ])
    for (const one of Object.values(channels)) expect(one).toBe(channel(String(one.name)))
  })

  it('carry typed messages to those who listen, and say whether anybody does', () => {
    const heard: unknown[] = []
    const listener: ChannelListener = (message, name) => heard.push([message, name])
    const message = { owner: {}, callId: 'c', state: 'hit', elapsedMs: 1 } as const
    expect(channels.cacheLookup.hasSubscribers).toBe(false)
    channels.cacheLookup.subscribe(listener)
    expect(channels.cacheLookup.hasSubscribers).toBe(true)
    channels.cacheLookup.publish(message)
    channels.cacheLookup.unsubscribe(listener)
    channels.cacheLookup.publish(message)
    expect(channels.cacheLookup.hasSubscribers).toBe(false)
    expect(heard).toEqual([[message, 'millrace:cache:lookup']])
    expectTypeOf(channels.callEnd.publish).parameter(0).toEqualTypeOf<CallEnd>()
  })
})
