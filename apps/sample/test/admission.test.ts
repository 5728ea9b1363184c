import { isMillraceError } from '@millrace/core'
import { openaiError } from '@millrace/streaming'
import { describe, expect, it } from 'vitest'
import { createAdmission } from '../src/admission.ts'

function refusal(enter: () => unknown): unknown {
  try {
    enter()
  } catch (error) {
    return error
  }
  return undefined
}

describe('admission', () => {
  it('turns away what is above the bound of one client, and lets others in', () => {
    const admission = createAdmission({ maxRequests: 3, maxRequestsPerClient: 2 })
    const leave = admission.enter('a')
    admission.enter('a')
    expect(refusal(() => admission.enter('a'))).toSatisfy((error) => isMillraceError(error, 'rate-limited'))
    admission.enter('b')
    expect(refusal(() => admission.enter('c'))).toMatchObject({ message: '3 requests are under way already' })
    expect(admission.stats()).toEqual({ running: 3, total: 3, refused: 2 })
    leave()
    admission.enter('c')
    expect(admission.stats()).toEqual({ running: 3, total: 4, refused: 2 })
  })

  it('counts a request out once', () => {
    const admission = createAdmission({ maxRequests: 9, maxRequestsPerClient: 9 })
    const leave = admission.enter('a')
    admission.enter('a')
    leave()
    leave()
    expect(admission.stats().running).toBe(1)
  })

  it('is told to clients as 429, to be tried again in a second', () => {
    const admission = createAdmission({ maxRequests: 1, maxRequestsPerClient: 1 })
    admission.enter('a')
    expect(openaiError(refusal(() => admission.enter('a')))).toMatchObject({ status: 429, headers: { 'retry-after': '1' } })
  })

  it('refuses bounds that make no sense', () => {
    expect(() => createAdmission({ maxRequests: 0, maxRequestsPerClient: 1 })).toThrow(
      'maxRequests must be a whole number from 1 up'
    )
  })
})
