import { describe, expect, test } from 'vitest'
import { createEndFinder, saysNothing } from '../src/wire-end.ts'

const ends = [
  'data: [DONE]\n\n',
  'data:[DONE]\r\n\r\n',
  'event: message_stop\ndata: {"type":"message_stop"}\n\n',
  'data: {"type": "message_stop"}\n\n',
  `event: response.completed\ndata: {"response":"${'x'.repeat(1000)}"}\n\n`,
  `data: {"type":"response.completed","response":"${'x'.repeat(1000)}"}\r\n\r\n`
]
const noEnds = [
  'data: {"text":"I print [DONE] when I finish"}\n\n',
  'data: {"text":"data: [DONE]\\n\\n"}\n\n',
  'data: {"text":"message_stop","other":"response.completed"}\n\n',
  'data: {"metadata":{"type":"message_stop"}}\n\n',
  'data: [DONE] or not\n\n',
  'event: message_delta\ndata: {"type":"message_delta"}\n\n',
  ': [DONE]\n\n',
  'data: [DONE]', // not whole
  'event: response.completed\n'
]
const before = 'data: {"text":"a"}\n\n'

describe('the last event of a stream', () => {
  test('is found where it is whole, cut anywhere', () => {
    for (const end of ends) {
      const text = before + end
      for (let cut = 0; cut < text.length; cut++) {
        const isOver = createEndFinder()
        expect(isOver(text.slice(0, cut)), text.slice(0, cut)).toBe(false)
        expect(isOver(text.slice(cut)), text).toBe(true)
      }
      const byCharacter = createEndFinder()
      expect(text.split('').map(byCharacter).indexOf(true)).toBe(text.length - 1)
    }
  })

  test('is none that stands in what a model wrote', () => {
    for (const text of noEnds) {
      expect(createEndFinder()(before + text), text).toBe(false)
      const byCharacter = createEndFinder()
      expect((before + text).split('').some(byCharacter), text).toBe(false)
    }
  })

  test('is followed by what says nothing, or it was not the last', () => {
    for (const rest of ['', '\n', ': bye\r\n\r\n', 'data: [DONE]\n\n', 'event: done\ndata: [DONE]\n\n']) {
      expect(saysNothing(rest), rest).toBe(true)
    }
    for (const rest of [before, 'x', 'data: {"error":1}\n\n', '\n\ndata: a']) expect(saysNothing(rest), rest).toBe(false)
  })
})
