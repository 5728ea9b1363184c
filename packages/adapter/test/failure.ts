import { isMillraceError, type MillraceError } from '@millrace/core'
import { expect } from 'vitest'

/** The error of ours that `work` fails with; anything else fails the test. */
export async function failure(work: Promise<unknown>): Promise<MillraceError> {
  const error = await work.then(
    () => expect.fail('it should have failed'),
    (thrown: unknown) => thrown
  )
  if (!isMillraceError(error)) throw error
  return error
}
