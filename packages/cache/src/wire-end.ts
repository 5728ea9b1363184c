/**
 * Gives a function that is told a stream piece by piece, in any cut, and says when an event is whole behind which none comes:
 * `[DONE]`, `message_stop` or `response.completed`. By the beginnings of lines: what a model writes stands in JSON, within one.
 */
export function createEndFinder(): (piece: string) => boolean {
  let line = ''
  let isLastEvent = false
  return (piece) => {
    for (let from = 0; ; ) {
      const end = piece.indexOf('\n', from)
      // Of a long line its beginning is enough.
      line += piece.slice(from, Math.min(end === -1 ? piece.length : end, from + maxChars - line.length))
      if (end === -1) return false
      from = end + 1
      if (line !== '' && line !== '\r') isLastEvent ||= lastEvent.test(line)
      else if (isLastEvent) return true
      line = ''
    }
  }
}

const maxChars = 64
const lastEvent =
  /^(?:data: ?\[DONE\]\s*$|event: ?(?:message_stop|response\.completed)\s*$|data: ?\{ ?"type": ?"(?:message_stop|response\.completed)")/

/** Whether the text behind such an event says nothing: comments, and a `[DONE]` behind another end. */
export function saysNothing(rest: string): boolean {
  return rest.split('\n').every((line) => /^(?:(?::|event:|id:|retry:).*|data: ?\[DONE\]\s*)?\r?$/.test(line))
}
