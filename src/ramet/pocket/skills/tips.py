"""The hand-written tips: topic, then (title, what to do, why, how) four or more times.

Topics with `{x}` are patterns for many things (`learning {x}`), so that a tip also fits a topic that
training never showed. This file is text and no code.
"""

# ruff: noqa: SIM905 (a word list reads best as words)

from __future__ import annotations

Tip = tuple[str, str, str, str]

TIPS: dict[str, list[Tip]] = {
    "staying healthy": [
        ("Sleep well", "Sleep seven to eight hours every night.", "A rested body fights illness better.", "Go to bed at the same time each evening."),
        ("Eat vegetables", "Eat vegetables with every meal.", "They give you vitamins and fibre.", "Fill half of your plate with them."),
        ("Move every day", "Walk for half an hour every day.", "Movement keeps the heart strong.", "Take the stairs and leave the bus one stop early."),
        ("Drink water", "Drink a glass of water with every meal.", "Your body needs it to work well.", "Keep a bottle where you can see it."),
        ("See a doctor", "See your doctor once a year.", "Small problems are easier to treat.", "Write down your questions before you go."),
    ],
    "sleeping better": [
        ("Keep a rhythm", "Go to bed at the same time every day.", "Your body likes a steady rhythm.", "Set an alarm for bedtime too."),
        ("Dim the lights", "Turn down the lights an hour before bed.", "Darkness tells the brain that the day is over.", "Use one small lamp in the evening."),
        ("Put the phone away", "Leave your phone outside the bedroom.", "Screens keep the mind awake.", "Read a few pages of a book instead."),
        ("Cool the room", "Keep the bedroom cool and quiet.", "People sleep more deeply in fresh air.", "Open the window before you lie down."),
    ],
    "saving money": [
        ("Write it down", "Write down what you spend for one month.", "You can only change what you know.", "A small notebook is enough."),
        ("Pay yourself first", "Move a fixed sum to savings on payday.", "What is out of sight is not spent.", "Start with a small amount and raise it later."),
        ("Wait a day", "Wait one day before you buy something big.", "Many wishes fade overnight.", "Put the item on a list and look again tomorrow."),
        ("Cook at home", "Cook at home more often.", "A meal out costs as much as three at home.", "Make a large pot and keep some for the next day."),
    ],
    "learning a language": [
        ("Practise daily", "Practise for fifteen minutes every day.", "Short daily practice beats one long lesson a week.", "Tie it to your morning coffee."),
        ("Speak early", "Speak from the first week on.", "Mistakes are how the ear learns.", "Find a partner who learns your language."),
        ("Label your home", "Put labels with new words on things at home.", "You see the words many times a day.", "Change the labels every week."),
        ("Listen a lot", "Listen to songs and radio in the language.", "Your ear gets used to the sounds.", "Do not worry if you miss half of it."),
    ],
    "growing tomatoes": [
        ("Give them sun", "Plant tomatoes where the sun shines all day.", "They need light to become sweet.", "A south wall is a good spot."),
        ("Water the roots", "Water the soil and not the leaves.", "Wet leaves get sick.", "Water slowly in the morning."),
        ("Tie them up", "Tie the stems to a strong stick.", "The fruit is heavy.", "Use soft string and leave some space."),
        ("Feed them", "Feed the plants every two weeks.", "Tomatoes use up the soil quickly.", "Compost does the job well."),
    ],
    "giving a speech": [
        ("Know your first line", "Learn your first sentence by heart.", "A safe start calms the nerves.", "Say it aloud ten times before the day."),
        ("Tell one story", "Build the speech around one short story.", "People remember stories better than lists.", "Choose one that you lived through."),
        ("Speak slowly", "Speak more slowly than feels natural.", "Nerves make everybody fast.", "Breathe at the end of each sentence."),
        ("Look at people", "Look at single people and not at your notes.", "Eye contact makes a speech a talk.", "Start with a friendly face."),
    ],
    "cooking pasta": [
        ("Use a big pot", "Cook pasta in plenty of water.", "It sticks when it has no room.", "Take one litre for each person."),
        ("Salt the water", "Salt the water well.", "Later the salt no longer gets inside.", "Add it when the water boils."),
        ("Taste early", "Taste the pasta two minutes before the time is up.", "It should still have a bite.", "Take out one piece and cut it."),
        ("Save some water", "Keep a cup of the cooking water.", "It makes the sauce smooth.", "Stir it in at the very end."),
    ],
    "running": [
        ("Start slowly", "Run so slowly that you can still talk.", "The heart grows strong at an easy pace.", "Walk for a minute whenever you need to."),
        ("Buy good shoes", "Run in shoes that fit your feet.", "Bad shoes hurt the knees.", "Try them on in the evening."),
        ("Rest a day", "Take a day off between two runs.", "Muscles grow while you rest.", "Go for a walk on the free day."),
        ("Run with a friend", "Run with a friend once a week.", "A promise gets you out of the door.", "Agree on a time and a place."),
    ],
    "writing": [
        ("Write every day", "Write a few lines every day.", "Writing grows with practice.", "Choose a quiet hour and keep it."),
        ("Cut words", "Cut every word that does no work.", "Short sentences are easier to read.", "Read the text aloud and mark where you stumble."),
        ("Read widely", "Read books of many kinds.", "Good sentences teach by example.", "Copy a sentence that you like and study it."),
        ("Start in the middle", "Start with the part that you see most clearly.", "The first line is often the hardest.", "Write the opening at the end."),
    ],
    "time management": [
        ("Plan the day", "Write down three tasks every morning.", "A short list keeps you focused.", "Put the hardest one first."),
        ("Take breaks", "Take a short break every hour.", "A rested mind works faster.", "Stand up and look out of the window."),
        ("Say no", "Say no to what does not matter.", "Every yes costs time.", "Offer another day if you can."),
        ("Group small tasks", "Do small tasks in one go.", "Switching costs more time than the work.", "Answer all messages once before lunch."),
    ],
    "job interviews": [
        ("Know the company", "Read about the company before you go.", "It shows that you care.", "Note two things that you like about it."),
        ("Prepare examples", "Prepare three examples of your work.", "Examples say more than promises.", "Tell what you did and what came of it."),
        ("Ask questions", "Ask at least one question of your own.", "An interview goes both ways.", "Ask what a normal day looks like."),
        ("Be early", "Arrive ten minutes early.", "Hurry makes you nervous.", "Try the way the day before."),
    ],
    "studying for exams": [
        ("Start early", "Start two weeks before the exam.", "The brain needs time to store things.", "Divide the matter into small parts."),
        ("Test yourself", "Test yourself instead of reading again.", "Remembering is what makes memory strong.", "Cover the page and say what you know."),
        ("Teach a friend", "Explain the matter to a friend.", "You notice what you do not understand.", "Use your own words and a drawing."),
        ("Sleep before it", "Sleep well on the last night.", "A tired mind forgets.", "Close the books at eight."),
    ],
    "travelling": [
        ("Pack light", "Pack half of what you first laid out.", "A light bag makes you free.", "Choose clothes that go together."),
        ("Copy your papers", "Keep a copy of your passport.", "It saves days if you lose the passport.", "Send a photo of it to yourself."),
        ("Learn five words", "Learn five words of the local language.", "People open up when you try.", "Begin with hello, please and thank you."),
        ("Eat where locals eat", "Eat where the local people eat.", "It is better and cheaper.", "Walk two streets away from the sights."),
    ],
    "keeping a dog": [
        ("Walk it daily", "Walk your dog at least twice a day.", "A bored dog makes trouble.", "Change the way now and then."),
        ("Train with rewards", "Reward the dog when it does well.", "Praise works better than punishment.", "Keep small treats in your pocket."),
        ("Keep rules", "Keep the same rules every day.", "Clear rules make a dog calm.", "All in the house should agree on them."),
        ("Visit the vet", "Take the dog to the vet once a year.", "Animals hide their pain.", "Note what has changed since the last visit."),
    ],
    "making friends": [
        ("Join a group", "Join a club that meets every week.", "Seeing the same faces builds trust.", "Pick something that you enjoy anyway."),
        ("Ask and listen", "Ask questions and listen to the answers.", "People like those who are curious about them.", "Remember one detail for next time."),
        ("Invite someone", "Invite someone for a simple meal.", "Somebody has to make the first step.", "Soup and bread are enough."),
        ("Stay in touch", "Write to people before you need them.", "Friendship lives on small signs.", "Send a photo or a short note."),
    ],
    "public speaking": [
        ("Practise aloud", "Practise your talk aloud three times.", "Words sound different in the mouth.", "Stand up and use a timer."),
        ("Know your audience", "Find out who will listen.", "A talk is for the people in the room.", "Use an example from their daily life."),
        ("Pause", "Pause after each important point.", "Silence gives people time to think.", "Count to two before you go on."),
        ("Keep it short", "End a little before your time is up.", "Nobody minds a short talk.", "Drop your weakest point."),
    ],
    "saving energy": [
        ("Switch off lights", "Switch off the light when you leave a room.", "Many small lamps add up.", "Put a note beside the door."),
        ("Lower the heating", "Lower the heating by one degree.", "One degree saves a good part of the bill.", "Wear a sweater at home."),
        ("Wash cold", "Wash your clothes with cold water.", "Most of the energy goes into heating water.", "Use the warm programme for towels only."),
        ("Unplug devices", "Unplug devices that you do not use.", "They take power even when they sleep.", "Use a strip with one switch."),
    ],
    "gardening": [
        ("Know your soil", "Look at your soil before you plant.", "Each plant likes another ground.", "Take a handful and feel it."),
        ("Water early", "Water the garden early in the morning.", "Less of it dries up in the sun.", "Water rarely but well."),
        ("Cover the ground", "Cover the ground with leaves or straw.", "It keeps the water in and the weeds out.", "A layer as thick as a hand will do."),
        ("Grow what you eat", "Grow what you like to eat.", "The harvest keeps you going.", "Start with beans, salad and herbs."),
    ],
    "working from home": [
        ("Keep a desk", "Keep one place only for work.", "The mind learns what a place is for.", "A small table by the window will do."),
        ("Dress for work", "Get dressed before you start.", "It tells you that the day has begun.", "Change clothes again when you stop."),
        ("Set an end", "Set a time when work ends.", "Without an end the day eats the evening.", "Shut the computer and close the door."),
        ("Go outside", "Go outside once before noon.", "Light and air wake you up.", "Walk around the block while you think."),
    ],
    "riding a bicycle": [
        ("Wear a helmet", "Wear a helmet on every ride.", "Heads are hard to repair.", "Choose a bright one."),
        ("Check the brakes", "Check your brakes once a week.", "You need them when you least expect it.", "Pull both levers before you set off."),
        ("Be seen", "Use lights and bright clothes.", "Drivers can only stop for what they see.", "Switch the lights on in the rain too."),
        ("Pump the tyres", "Pump up your tyres every month.", "Soft tyres make every ride hard.", "Press them with the thumb to test."),
    ],
    "baking bread": [
        ("Weigh the flour", "Weigh the flour and the water.", "A cup can hold more or less.", "A cheap kitchen scale is enough."),
        ("Give it time", "Let the dough rest overnight.", "Time gives the bread its taste.", "Keep it in the fridge under a cloth."),
        ("Heat the oven", "Heat the oven longer than you think.", "Bread needs a hot start.", "Wait for half an hour before you bake."),
        ("Let it cool", "Let the bread cool before you cut it.", "The inside is still baking.", "Put it on a rack for an hour."),
    ],
    "managing stress": [
        ("Breathe", "Breathe out slowly ten times.", "Slow breath calms the heart.", "Count to four in and to six out."),
        ("Name the worry", "Write down what worries you.", "On paper it looks smaller.", "Mark what you can change."),
        ("Move", "Go for a walk when you feel tense.", "Movement burns off stress.", "Leave the phone at home."),
        ("Talk", "Talk to someone whom you trust.", "A shared worry is lighter.", "Call a friend this evening."),
    ],
    "taking photos": [
        ("Look for light", "Look for soft light.", "Light makes the picture.", "Go out early or late in the day."),
        ("Get closer", "Take two steps closer.", "Most pictures show too much.", "Fill the frame with one thing."),
        ("Hold still", "Hold the camera with both hands.", "Shaking blurs the picture.", "Lean against a wall."),
        ("Wait", "Wait for the right moment.", "A good picture needs patience.", "Stay in one place for ten minutes."),
    ],
    "reading more": [
        ("Carry a book", "Carry a book wherever you go.", "Waiting time becomes reading time.", "Choose a small one for the bag."),
        ("Read in bed", "Read ten pages before you sleep.", "A habit needs a fixed place.", "Put the book on your pillow."),
        ("Drop dull books", "Stop reading books that bore you.", "Life is short and shelves are long.", "Give a book fifty pages."),
        ("Talk about books", "Talk about books with friends.", "It makes you want to read on.", "Swap one book a month."),
    ],
}  # fmt: skip

PATTERNS: dict[str, list[Tip]] = {
    "learning {x}": [
        ("Practise daily", "Practise {x} for fifteen minutes every day.", "Small steps add up.", "Choose a fixed time and keep it."),
        ("Find a teacher", "Find someone who is good at {x}.", "A teacher sees mistakes that you miss.", "Ask for one lesson a month."),
        ("Start simple", "Start with the simplest part of {x}.", "Early success keeps you going.", "Make it a little harder each week."),
        ("Keep notes", "Keep notes on what you learn about {x}.", "You see how far you have come.", "Read them again every Sunday."),
    ],
    "buying {x}": [
        ("Compare prices", "Compare prices before you buy {x}.", "Shops differ more than you think.", "Look at three offers at least."),
        ("Ask others", "Ask people who already own {x}.", "They know the weak points.", "Ask what they would do again."),
        ("Set a limit", "Set a limit before you look at {x}.", "Shops are good at raising it.", "Write the sum on a piece of paper."),
        ("Try it first", "Try before you decide on {x}.", "Pictures do not tell everything.", "Take your time in the shop."),
    ],
    "teaching {x}": [
        ("Show it first", "Show {x} before you explain it.", "Eyes learn faster than ears.", "Do it slowly and say what you do."),
        ("Praise effort", "Praise every honest try at {x}.", "Courage grows with praise.", "Name one thing that went well."),
        ("Use small steps", "Divide {x} into small steps.", "Nobody learns everything at once.", "Practise one step until it is easy."),
        ("Make it a game", "Make a game out of {x}.", "Play keeps the mind open.", "Give a small prize at the end."),
    ],
}  # fmt: skip

THINGS: dict[str, list[str]] = {
    "learning {x}": "chess,the piano,the guitar,drawing,swimming,maths,to cook,to dance,history,knitting,programming,pottery,to sing,first aid,sailing,yoga,physics,the violin,typing,skiing".split(","),
    "buying {x}": "a bike,a house,a car,shoes,a laptop,a tent,a sofa,a camera,furniture,a phone,a bed,a coat,a garden,a piano,a lamp,a boat".split(","),
    "teaching {x}": "maths,chess,swimming,spelling,music,drawing,history,reading,dancing,cooking,football,physics,good manners,geography,patience,first aid".split(","),
}  # fmt: skip
