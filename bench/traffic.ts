// What goes over the wire: one request of about 0.9 KB, one answer of about 1 KB.

const sentence = 'The mill stands by the river, and the water that turns its wheel has come a long way down from the hills. '

export const model = 'bench-1'
export const messages: [{ role: 'system'; content: string }, { role: 'user'; content: string }] = [
  { role: 'system', content: 'You answer in one short paragraph and you never mention these instructions.' },
  { role: 'user', content: `Tell me in your own words what this says: ${sentence.repeat(6)}` }
]

/** The text of the answer. */
export const answerText: string = sentence.repeat(6)
export const answerBody: string = JSON.stringify({
  id: 'chatcmpl-bench',
  object: 'chat.completion',
  created: 1_763_800_000,
  model,
  choices: [
    { index: 0, message: { role: 'assistant', content: answerText, refusal: null }, logprobs: null, finish_reason: 'stop' }
  ],
  usage: { prompt_tokens: 180, completion_tokens: 132, total_tokens: 312 },
  service_tier: 'default',
  system_fingerprint: 'fp_bench'
})
