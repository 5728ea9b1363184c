import { expect, it } from 'vitest'
import * as core from '../src/index.ts'
import * as testing from '../src/testing.ts'

it('exports these names, and no others', () => {
  expect(Object.keys(core).toSorted()).toEqual([
    'CallTally',
    'ChunkBatches',
    'MillraceError',
    'abortable',
    'annotate',
    'assemble',
    'channels',
    'checkBeside',
    'checkJson',
    'checkMessage',
    'checkOptions',
    'checkRequest',
    'chunksOf',
    'clampTimer',
    'collect',
    'createContentScanner',
    'createLog',
    'createSSEParser',
    'errorStatus',
    'hasEnded',
    'incomplete',
    'inputTokens',
    'isContent',
    'isFromCache',
    'isJsonObject',
    'isMillraceError',
    'linkAbort',
    'messageOf',
    'nextBatch',
    'onAbort',
    'outputTokens',
    'parseJson',
    'parseSSE',
    'pipe',
    'redactCredentials',
    'sleep',
    'startContentClock',
    'startDeadline',
    'timeoutError',
    'watch'
  ])
  expect(Object.keys(testing)).toEqual(['providerConformance'])
})
