import dns from 'node:dns'
import type { LookupFunction } from 'node:net'

/**
 * Looks host names up as Node does, but a name only once at a time: who asks meanwhile shares the answer. The system's
 * resolver has four threads, and the many connections of one origin whose name server is slow would take them all. Nothing
 * is kept behind the answer, so that a change of addresses is seen by the next connection.
 */
export function createLookup(): LookupFunction {
  const asking = new Map<string, Parameters<LookupFunction>[2][]>()
  return (hostname, options, callback) => {
    const question = JSON.stringify([hostname, options])
    const others = asking.get(question)
    if (others !== undefined) {
      others.push(callback)
      return
    }
    const askers = [callback]
    asking.set(question, askers)
    dns.lookup(hostname, options, (...answer) => {
      asking.delete(question)
      for (const tell of askers) tell(...answer)
    })
  }
}
