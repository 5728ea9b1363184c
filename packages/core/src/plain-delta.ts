/**
 * Whether an event is one of the commonest: a piece of an answer and nothing else, in the spelling of the big providers.
 * It looks at a few places instead of parsing. True is certain for any JSON that has no name twice in one object; false
 * says nothing.
 *
 * A quote inside a JSON string is always escaped. So a name in its quotes behind a `,` or a `{` is a real name, whatever
 * texts stand around it; and as long as no other `{` came before, it is a name of the outermost object.
 */
export function isPlainDelta(data: string): boolean {
  if (!isAt(typedHead, data, 0)) return isChatDelta(data)
  return data.charCodeAt(typeStart) === letterR ? isResponsesDelta(data) : isBlockDelta(data)
}

const typeStart = '{"type":"'.length
const letterR = 114
const quote = 34
const backslash = 92

// Sticky: each is tried at one place only. None of them can run back and forth: what repeats is told apart at its first
// letters.
const typedHead = /\{"type":"(?:response\.|content_block_delta","index":)/y
const blockHead = /,"delta":\{"type":"(?:text_delta","text|thinking_delta","thinking|input_json_delta","partial_json)":"(?!")/y
const textHead =
  /[,{]"choices":\[\{(?:"index":0,)?"delta":\{(?:"role":"assistant",)?(?:"content":(?:null|""),)?"(?:content|reasoning_content|reasoning)":"(?!")/y
const textTail = /"\}(?:,"(?:logprobs|finish_reason|native_finish_reason)":null|,"index":0)*\}\]/y
const callHead = /[,{]"choices":\[\{(?:"index":0,)?"delta":\{"tool_calls":\[\{"index":\d+,"function":\{"arguments":"(?!")/y
const callTail = /"\}\}\]\}(?:,"(?:logprobs|finish_reason|native_finish_reason)":null|,"index":0)*\}\]/y

/** What a match leaves in `lastIndex` is of use to the caller until the next one. */
function isAt(pattern: RegExp, data: string, at: number): boolean {
  pattern.lastIndex = at
  return pattern.test(data)
}

/** `{...,"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}],...}`: one choice, the first, unfinished. */
function isChatDelta(data: string): boolean {
  const choice = data.indexOf('{', 1)
  const choices = choice - ',"choices":['.length
  if (choices < 0) return false
  if (isAt(textHead, data, choices)) return endsAsPlain(data, textHead.lastIndex, textTail)
  return isAt(callHead, data, choices) && endsAsPlain(data, callHead.lastIndex, callTail)
}

function endsAsPlain(data: string, textStart: number, tail: RegExp): boolean {
  const textEnd = endOfString(data, textStart)
  // No object behind the choice: it might be an error.
  return textEnd !== -1 && isAt(tail, data, textEnd) && data.indexOf('{', tail.lastIndex) === -1
}

/** Where the quote is that ends a string: the first behind an even number of backslashes. */
function endOfString(data: string, start: number): number {
  for (let at = data.indexOf('"', start); at !== -1; at = data.indexOf('"', at + 1)) {
    let backslashes = 0
    while (data.charCodeAt(at - 1 - backslashes) === backslash) backslashes++
    if (backslashes % 2 === 0) return at
  }
  return -1
}

/** `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}` */
function isBlockDelta(data: string): boolean {
  const delta = data.indexOf('{', 1)
  return delta !== -1 && isAt(blockHead, data, delta - ',"delta":'.length)
}

/** `{"type":"response.output_text.delta",...,"delta":"x",...}` */
function isResponsesDelta(data: string): boolean {
  const typeEnd = data.indexOf('"', typeStart)
  if (!data.startsWith('.delta', typeEnd - '.delta'.length)) return false
  const delta = data.indexOf(',"delta":"', typeEnd)
  if (delta === -1 || data.charCodeAt(delta + ',"delta":"'.length) === quote) return false
  const nested = data.indexOf('{', 1)
  return nested === -1 || nested > delta
}
