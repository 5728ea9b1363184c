// Batches that nobody reads on: one in a pause of a minute, one with a time limit of a minute. The process ends at once.
import { batch } from '@millrace/batch'
import { MillraceError } from '@millrace/core'

const pausing = batch(
  [1, 2],
  async (item) => {
    if (item === 2) throw new MillraceError('rate-limited', 'later', { details: { retryAfterMs: 60_000 } })
    return item
  },
  { order: 'input' }
)
const hanging = batch([1, 2], (item) => (item === 1 ? item : new Promise(() => {})), { itemTimeoutMs: 60_000 })
console.log((await pausing.next()).value?.index, (await hanging.next()).value?.index)
